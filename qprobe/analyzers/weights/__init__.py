"""What can be said of a checkpoint without data: which weights suffer in four bits, and why."""

from qprobe.analyzers.weights.analyzer import WeightAnalyzer
from qprobe.analyzers.weights.measurement import Depth

__all__ = ["Depth", "WeightAnalyzer"]
