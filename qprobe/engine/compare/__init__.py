"""Are recipes different, over seeds and folds? Reads finished runs; takes no torch."""

from qprobe.engine.compare.comparison import Comparison, Group, Question, Row, compare
from qprobe.inference.against_baseline import Effect, Mean, Verdict

__all__ = [
    "Comparison",
    "Effect",
    "Group",
    "Mean",
    "Question",
    "Row",
    "Verdict",
    "compare",
]
