"""Statistics over runs and samples: NumPy and SciPy only, every number with its n and interval."""

from qprobe.inference.bootstrap import (
    Method,
    Replicates,
    Resampling,
    bootstrap,
    paired_bootstrap,
    replicate,
)
from qprobe.inference.effect import cohens_d, hedges_g, mean_interval
from qprobe.inference.interval import Interval
from qprobe.inference.paired import SignedRank, holm, wilcoxon
from qprobe.inference.precision_recall import (
    average_precision,
    average_precision_bounds,
    average_precision_of_histograms,
    average_precision_slopes,
    precision_recall,
)
from qprobe.inference.rank import kendall_tau
from qprobe.inference.simultaneous import of_family

__all__ = [
    "Interval",
    "Method",
    "Replicates",
    "Resampling",
    "SignedRank",
    "average_precision",
    "average_precision_bounds",
    "average_precision_of_histograms",
    "average_precision_slopes",
    "bootstrap",
    "cohens_d",
    "hedges_g",
    "holm",
    "kendall_tau",
    "mean_interval",
    "of_family",
    "paired_bootstrap",
    "precision_recall",
    "replicate",
    "wilcoxon",
]
