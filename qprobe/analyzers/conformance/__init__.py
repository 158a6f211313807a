"""Whether each layer does to its operands what its recipe intends."""

from qprobe.analyzers.conformance.analyzer import NAME, Conformance

__all__ = ["NAME", "Conformance"]
