"""Every kind of defect, and the changes that are none."""

from collections.abc import Mapping

from qprobe.errors import UnknownNameError
from qprobe.faults import attention, benign, branch, rescale, scales
from qprobe.faults.fault import Kind
from qprobe.records.schema import Cause

_DEFECTS = (
    Kind(
        name="channel-outlier",
        cause=Cause.CHANNEL_OUTLIER,
        summary="one input channel is `strength` times as large, its weights as much smaller",
        strengths=(8.0, 32.0, 128.0),
        fits=rescale.layers,
        make=rescale.channel_outlier,
        preserves=True,
    ),
    Kind(
        name="weight-outlier",
        cause=Cause.CHANNEL_OUTLIER,
        summary="the weights of one input channel are `strength` times as large",
        strengths=(8.0, 32.0, 128.0),
        fits=rescale.layers,
        make=rescale.weight_outlier,
        preserves=True,
    ),
    Kind(
        name="spatial-outlier",
        cause=Cause.SPATIAL_OUTLIER,
        summary="one token or voxel of each sample is `strength` times the largest magnitude",
        strengths=(4.0, 16.0, 64.0),
        fits=rescale.layers,
        make=rescale.spatial_outlier,
        preserves=True,
    ),
    Kind(
        name="key-offset",
        cause=Cause.LOGIT_OFFSET,
        summary="all keys share an offset of `strength` times their size",
        strengths=(8.0, 32.0, 128.0),
        fits=attention.quantized_products,
        make=attention.key_offset,
        preserves=True,
    ),
    Kind(
        name="logit-growth",
        cause=Cause.LOGIT_GROWTH,
        summary="logits are `strength` times as large",
        strengths=(4.0, 16.0, 64.0),
        fits=attention.projections,
        make=attention.logit_growth,
        preserves=False,
    ),
    Kind(
        name="missing-scale",
        cause=Cause.SCALE_MISSING,
        summary="weights are scaled by blocks only; the factor of the tensor is `strength`",
        strengths=(1.0, 8.0, 64.0),
        fits=scales.forward_blocks,
        make=scales.missing_scale,
        preserves=True,
    ),
    Kind(
        name="missing-gradient-scale",
        cause=Cause.SCALE_MISSING,
        summary="gradients are scaled by blocks only; the factor of the tensor is `strength`",
        strengths=(1e-6, 1e-4, 1.0),
        fits=scales.backward_blocks,
        make=scales.missing_gradient_scale,
        preserves=True,
        gradient=True,
    ),
    Kind(
        name="saturating-scale",
        cause=Cause.SCALE_WRONG,
        summary="activations are cut off at 1/`strength` of their largest magnitude",
        strengths=(4.0, 16.0, 64.0),
        fits=scales.forward,
        make=scales.saturating_scale,
        preserves=True,
    ),
    Kind(
        name="stale-scale",
        cause=Cause.SCALE_WRONG,
        summary="activations have the scale of `strength` times larger ones",
        strengths=(4.0, 8.0, 16.0),
        fits=scales.forward,
        make=scales.stale_scale,
        preserves=True,
    ),
    Kind(
        name="dead-branch",
        cause=Cause.BRANCH_DEAD,
        summary="the gradient of one branch of a fusion is `strength` times as small",
        strengths=(10.0, 100.0, 1000.0),
        fits=branch.fusions,
        make=branch.dead_branch,
        preserves=True,
        gradient=True,
    ),
    Kind(
        name="nearest-gradient",
        cause=Cause.ROUNDING_BIAS,
        summary="a share `strength` of the gradient is rounded to nearest, not stochastically",
        strengths=(0.25, 0.5, 1.0),
        fits=scales.stochastic,
        make=scales.nearest_gradient,
        preserves=True,
        gradient=True,
    ),
    Kind(
        name="transposed-scales",
        cause=Cause.WRONG_AXIS,
        summary="a share `strength` of the weight's rows is read with the scales of its other axis",
        strengths=(0.25, 0.5, 1.0),
        fits=scales.with_axes,
        make=scales.transposed_scales,
        preserves=True,
    ),
    Kind(
        name="few-bits",
        cause=Cause.TOO_FEW_BITS,
        summary="both forward operands have `strength` bits less",
        strengths=(1.0, 1.0, 2.0),
        fits=scales.forward,
        make=scales.few_bits,
        preserves=True,
    ),
    Kind(
        name="noise",
        cause=Cause.NOT_EXPLAINED,
        summary="activations carry `strength` times the noise of rounding, without a pattern",
        strengths=(4.0, 8.0, 16.0),
        fits=scales.forward,
        make=scales.noise,
        preserves=True,
    ),
)
_BENIGN = (
    Kind(
        name="power-of-two",
        cause=None,
        summary="the input is 2^`strength` times as large, the weight as much smaller",
        strengths=(1.0, 3.0, 5.0),
        fits=rescale.layers,
        make=benign.power_of_two,
        preserves=True,
    ),
    Kind(
        name="mild-gain",
        cause=None,
        summary="input channels have factors up to `strength`, the weight takes them back",
        strengths=(1.05, 1.1, 1.2),
        fits=rescale.layers,
        make=benign.mild_gain,
        preserves=True,
    ),
    Kind(
        name="permuted-channels",
        cause=None,
        summary="a share `strength` of the input channels has another order",
        strengths=(0.25, 0.5, 1.0),
        fits=benign.ungrouped,
        make=benign.permuted,
        preserves=True,
    ),
    Kind(
        name="weight-noise",
        cause=None,
        summary="weights moved by `strength` of their size",
        strengths=(1e-4, 3e-4, 1e-3),
        fits=rescale.layers,
        make=benign.weight_noise,
        preserves=False,
    ),
    Kind(
        name="other-seed",
        cause=None,
        summary="stochastic rounding draws from another seed",
        strengths=(1.0, 1.0, 1.0),
        fits=scales.stochastic,
        make=scales.reseeded,
        preserves=True,
        gradient=True,
    ),
)

#: All kinds by name, defects first.
KINDS: Mapping[str, Kind] = {one.name: one for one in (*_DEFECTS, *_BENIGN)}


def kind(name: str) -> Kind:
    """The kind called ``name``.

    >>> kind("few-bits").cause
    <Cause.TOO_FEW_BITS: 'too_few_bits'>
    """
    if name not in KINDS:
        raise UnknownNameError(
            f"no kind of defect is called {name!r}; there are {', '.join(KINDS)}."
        )
    return KINDS[name]
