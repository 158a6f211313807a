"""Where a model can be watched: sites of its modules, attention, fusions, and taps."""

from qprobe.sites.attention import Attended, Sampling
from qprobe.sites.capture import Capture, Receiver
from qprobe.sites.discover import aliases, discover, select
from qprobe.sites.scores import Attention
from qprobe.sites.site import Site
from qprobe.sites.tap import Tap
from qprobe.sites.trace import Branch, Fusion, Trace, trace

__all__ = [
    "Attended",
    "Attention",
    "Branch",
    "Capture",
    "Fusion",
    "Receiver",
    "Sampling",
    "Site",
    "Tap",
    "Trace",
    "aliases",
    "discover",
    "select",
    "trace",
]
