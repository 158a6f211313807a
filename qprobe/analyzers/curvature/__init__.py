"""Does the minimum tolerate this noise? Curvature of the loss, and what the weights' error costs.

Everything is taken at the same weights in high precision: the quantized layers pass gradients
straight through and have no second derivative. The model itself is never run; a private copy is.
"""

from qprobe.analyzers.curvature.analyzer import Curvature

__all__ = ["Curvature"]
