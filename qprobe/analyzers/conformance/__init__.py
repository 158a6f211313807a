"""Whether each layer does to its operands what its recipe intends."""

from qprobe.analyzers.conformance.analyzer import Conformance

__all__ = ["Conformance"]
