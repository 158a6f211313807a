"""What a number means: pure functions of tensors, and partial results that merge.

Each statistic is a function that takes tensors and returns a state (sums and counts on the same
device, nothing read on the host) or, where it asks for products with a Hessian, a value. A state
has ``merge`` and, once it is on the host, ``scalars``; what is missing has no key.
"""

from qprobe.stats.additive import Additive
from qprobe.stats.attention import (
    LogitError,
    SoftmaxError,
    logit_error,
    probabilities,
    softmax_change,
    softmax_error,
    softmax_levels,
)
from qprobe.stats.blocks import BlockRanges, block_ranges
from qprobe.stats.codes import (
    BlockScales,
    CodeOccupancy,
    block_scales,
    code_occupancy,
    e2m1_values,
    in_blocks,
    range_octaves,
)
from qprobe.stats.curvature import (
    Eigenvalues,
    End,
    Estimate,
    Operator,
    Spectrum,
    block_traces,
    hutchinson_trace,
    quadratic_form,
    spectral_density,
    top_eigenvalues,
)
from qprobe.stats.discretization import (
    Levels,
    PredictionLevels,
    effective_levels,
    prediction_levels,
)
from qprobe.stats.energy import BranchEnergy, branch_energy, imbalance, log_deviation
from qprobe.stats.gradient import (
    BatchNoise,
    GradientError,
    RoundingError,
    batch_noise,
    gradient_error,
    rounding_error,
)
from qprobe.stats.heads import PerHead
from qprobe.stats.histogram import MagnitudeHistogram, QuarterOctaves
from qprobe.stats.moments import Moments
from qprobe.stats.outliers import outlier_pattern
from qprobe.stats.quantization import OperandError, operand_error
from qprobe.stats.update import CodeChanges, CodeLook, UpdateSize, look_again, update_size

__all__ = [
    "Additive",
    "BatchNoise",
    "BlockRanges",
    "BlockScales",
    "BranchEnergy",
    "CodeChanges",
    "CodeLook",
    "CodeOccupancy",
    "Eigenvalues",
    "End",
    "Estimate",
    "GradientError",
    "Levels",
    "LogitError",
    "MagnitudeHistogram",
    "Moments",
    "OperandError",
    "Operator",
    "PerHead",
    "PredictionLevels",
    "QuarterOctaves",
    "RoundingError",
    "SoftmaxError",
    "Spectrum",
    "UpdateSize",
    "batch_noise",
    "block_ranges",
    "block_scales",
    "block_traces",
    "branch_energy",
    "code_occupancy",
    "e2m1_values",
    "effective_levels",
    "gradient_error",
    "hutchinson_trace",
    "imbalance",
    "in_blocks",
    "log_deviation",
    "logit_error",
    "look_again",
    "operand_error",
    "outlier_pattern",
    "prediction_levels",
    "probabilities",
    "quadratic_form",
    "range_octaves",
    "rounding_error",
    "softmax_change",
    "softmax_error",
    "softmax_levels",
    "spectral_density",
    "top_eigenvalues",
    "update_size",
]
