"""From measured recoveries to a list of layers, and from the list to other tools' configurations.

Reads records and writes text; neither torch nor the tools themselves are needed.
"""

from qprobe.plan.choose import choose
from qprobe.plan.evidence import Evidence, Layer, Prefix, evidence
from qprobe.plan.exports import Tool, export
from qprobe.plan.goal import Goal, KeepLayers, KeepShare, Target, keep, target
from qprobe.plan.plan import Plan

__all__ = [
    "Evidence",
    "Goal",
    "KeepLayers",
    "KeepShare",
    "Layer",
    "Plan",
    "Prefix",
    "Target",
    "Tool",
    "choose",
    "evidence",
    "export",
    "keep",
    "target",
]
