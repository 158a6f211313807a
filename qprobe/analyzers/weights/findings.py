"""What the measurements of a weight in high precision say, and what to do about it."""

from collections.abc import Iterator, Mapping

from qprobe.analyzers.weights.baseline import BLOCKS_DB, granularity_gain_db
from qprobe.records.schema import Cause, Finding, Role, Severity

Values = Mapping[str, float]

#: Below normal weights by this much, the rounding noise is twice as strong; by twice this, four
#: times. Trained weights without outliers stay within 1 dB of normal ones.
NOTICE_DB = 3.0
WARN_DB = 6.0
#: A remedy that gains less is not worth its cost.
_WORTH_DB = 1.0
#: Inputs of normal weights differ in size by a few percent, of trained ones by less than half.
_SPREAD = 3.0
_CONTROL = "independent normal weights of the same shape"
_REMEDIES = {
    "nvfp4_even": "scale the inputs to one size and undo it before the layer (smoothing)",
    "nvfp4_rht": "rotate weight and input along the inputs (RHT)",
}


def of(site: str, values: Values) -> Iterator[Finding]:
    """Findings about one weight, from its values by key."""
    bad = values.get("nan", 0.0) + values.get("infinite", 0.0)
    if bad:
        yield _nonfinite(site, values, bad)
    if not values.get("judged") or "packed" in values:
        return
    if values.get("dead_outputs"):
        yield _dead(site, values)
    if "nvfp4.balanced_db" in values:
        yield from _blocks(site, values)
    if {"int4_tensor.sqnr_db", "int4_channel.sqnr_db"} <= values.keys():
        yield from _granularity(site, values)


def finding(site: str, values: Values, **facts: object) -> Finding:
    """A finding of this analyzer; without an interval the value is exact."""
    effect = facts["effect"]
    filled = {
        "analyzer": "weights",
        "sites": (site,),
        "roles": (Role.WEIGHT,),
        "low": effect,
        "high": effect,
        "n": int(values["n"]),
        "control": _CONTROL,
        "reference": "weights only: what inputs do to it was not measured",
    }
    return Finding(**(filled | facts))  # type: ignore[arg-type]


def _nonfinite(site: str, values: Values, bad: float) -> Finding:
    return finding(
        site, values,
        claim=f"{int(bad)} of {int(values['n'])} elements of {site} are NaN or infinite",
        cause=Cause.NOT_EXPLAINED,
        severity=Severity.WARN,
        effect=bad / values["n"],
        unit="share of elements",
        control="no element of a usable weight is",
        remedy="take a checkpoint from before the training broke down",
    )  # fmt: skip


def _dead(site: str, values: Values) -> Finding:
    dead, out = int(values["dead_outputs"]), int(values["out"])
    return finding(
        site, values,
        claim=f"{dead} of {out} outputs of {site} are all zero",
        cause=Cause.NOT_EXPLAINED,
        severity=Severity.INFO,
        effect=dead / out,
        unit="share of outputs",
        remedy="prune them; they cost memory and change nothing",
    )  # fmt: skip


def _blocks(site: str, values: Values) -> Iterator[Finding]:
    """NVFP4 where every input counts equally: a large input hides its neighbours in the block."""
    kept = values["nvfp4.balanced_db"]
    lost = BLOCKS_DB["nvfp4"] - kept
    error = 1.96 * values.get("nvfp4.sqnr_se_db", 0.0)
    if lost - error < NOTICE_DB:
        return
    spread = values["input_spread"]
    yield finding(
        site, values,
        claim=f"large inputs of {site} hide their neighbours in NVFP4 blocks: where all inputs "
        f"count equally, {kept:.1f} dB are left, {lost:.1f} dB below normal weights "
        f"(largest input {spread:.1f} times the median)",
        cause=Cause.CHANNEL_OUTLIER if spread >= _SPREAD else Cause.NOT_EXPLAINED,
        severity=Severity.WARN if lost - error >= WARN_DB else Severity.INFO,
        effect=lost, low=lost - error, high=lost + error,
        unit="dB below normal weights",
        remedy=_best(values, kept),
    )  # fmt: skip


def _best(values: Values, kept: float) -> str:
    gains = {
        text: values[f"{name}.balanced_db"] - kept
        for name, text in _REMEDIES.items()
        if f"{name}.balanced_db" in values
    }
    text = max(gains, key=lambda text: gains[text], default="")
    if not text or gains[text] < _WORTH_DB:
        return "keep this layer in bf16: neither rotation nor smoothing gains 1 dB here"
    return f"{text}: gains {gains[text]:.1f} dB here"


def _granularity(site: str, values: Values) -> Iterator[Finding]:
    """One integer scale for a weight whose outputs, or single elements, differ in size."""
    tensor, channel = values["int4_tensor.sqnr_db"], values["int4_channel.sqnr_db"]
    expected = granularity_gain_db(int(values["n"]), int(values["n"] / values["out"]))
    excess = channel - tensor - expected
    error = 1.96 * values.get("int4_channel.sqnr_se_db", 0.0)
    if excess - error < NOTICE_DB:
        return
    group = values.get("int4_group.sqnr_db", channel)
    remedy = f"one scale for each output channel instead of one: gains {channel - tensor:.1f} dB"
    if group - channel >= _WORTH_DB:
        remedy += f", groups of 128 inputs {group - tensor:.1f} dB"
    spread = max(values["output_spread"], values["input_spread"])
    yield finding(
        site, values,
        claim=f"INT4 with one scale keeps {tensor:.1f} dB of {site}; one for each output channel "
        f"gains {excess:.1f} dB more than it would on normal weights",
        cause=Cause.CHANNEL_OUTLIER if spread >= _SPREAD else Cause.TOO_FEW_BITS,
        severity=Severity.WARN if excess - error >= WARN_DB else Severity.INFO,
        effect=excess, low=excess - error, high=excess + error,
        unit="dB gained beyond normal weights",
        remedy=remedy,
    )  # fmt: skip
