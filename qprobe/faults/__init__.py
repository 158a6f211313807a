"""Planted defects with a known site and a known cause: the ground truth of every diagnosis."""

from qprobe.faults.catalogue import KINDS, kind
from qprobe.faults.fault import Kind, Place, Traces
from qprobe.faults.plant import Planted, candidates, plant

__all__ = ["KINDS", "Kind", "Place", "Planted", "Traces", "candidates", "kind", "plant"]
