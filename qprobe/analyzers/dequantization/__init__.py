"""Which layer has to stay in high precision: screened, raced, measured, and combined."""

from qprobe.analyzers.dequantization.analyzer import Dequantization
from qprobe.analyzers.dequantization.evaluation import Bounds
from qprobe.analyzers.dequantization.search import EXHAUSTIVE, QUICK, THOROUGH, Mode, Search

__all__ = ["EXHAUSTIVE", "QUICK", "THOROUGH", "Bounds", "Dequantization", "Mode", "Search"]
