"""Scores of a segmentation, per image and pooled, from statistics that can be added up."""

from qprobe.engine.metrics.overlap import dice, f2, iou, overlap_counts, recall
from qprobe.engine.metrics.prediction import BINS, LIMIT, logit_histograms
from qprobe.engine.metrics.samples import SampleStatistics, sample_statistics
from qprobe.engine.metrics.surface import surface_dice

__all__ = [
    "BINS",
    "LIMIT",
    "SampleStatistics",
    "dice",
    "f2",
    "iou",
    "logit_histograms",
    "overlap_counts",
    "recall",
    "sample_statistics",
    "surface_dice",
]
