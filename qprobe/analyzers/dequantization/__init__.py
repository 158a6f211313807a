"""Which layer has to stay in high precision: screened, raced, measured, and combined."""

from qprobe.analyzers.dequantization.analyzer import Dequantization
from qprobe.analyzers.dequantization.evaluation import Bounds
from qprobe.analyzers.dequantization.search import QUICK, THOROUGH, Mode, Search

__all__ = ["QUICK", "THOROUGH", "Bounds", "Dequantization", "Mode", "Search"]
