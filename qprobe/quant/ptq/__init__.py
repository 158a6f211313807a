"""Transforms that make a layer easier to quantize and leave what it computes unchanged.

Each is applied to one layer in place and undone to the bit, so a remedy can be tried, measured and
put back: :func:`smooth` moves the range of activations into the weight, :func:`rotate` spreads it
over the channels, and :func:`svd` keeps the weight's largest directions in high precision.
"""

from qprobe.quant.ptq.applied import Applied
from qprobe.quant.ptq.calibrate import input_amax
from qprobe.quant.ptq.channels import Channels
from qprobe.quant.ptq.rotation import rotate
from qprobe.quant.ptq.smoothing import migrate, smooth
from qprobe.quant.ptq.svd import svd

__all__ = ["Applied", "Channels", "input_amax", "migrate", "rotate", "smooth", "svd"]
