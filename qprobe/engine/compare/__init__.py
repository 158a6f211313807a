"""Are recipes different, over seeds and folds? Reads finished runs; takes no torch."""

from qprobe.engine.compare.comparison import Comparison, Group, Question, Row, compare
from qprobe.engine.compare.effect import Effect, Mean, Verdict

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
