"""What the measurements of a weight in high precision say, and what to do about it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qprobe.analyzers.weights.baseline import BLOCKS_DB, granularity_gain_db
from qprobe.analyzers.weights.variants import GROUP
from qprobe.analyzers.wording import counted
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
    for step in _STEPS:
        if {f"int4_{step.coarse}.sqnr_db", f"int4_{step.fine}.sqnr_db"} <= values.keys():
            yield from _granularity(site, values, step)


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
        claim=f"{int(bad):,} of {counted(int(values['n']), 'element')} of {site} "
        f"{'is' if bad == 1 else 'are'} NaN or infinite",
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
        claim=f"{dead:,} of {counted(out, 'output')} of {site} {'is' if dead == 1 else 'are'} all "
        "zero",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """From one granularity of INT4 to the next finer one."""

    coarse: str
    fine: str
    #: As a claim and as a remedy name them.
    has: str
    gets: str

    def sharing(self, values: Values) -> tuple[int, int]:
        """How many elements share a coarse scale, and a fine one."""
        inputs = int(values["n"] / values["out"])
        every = {"tensor": int(values["n"]), "channel": inputs, "group": min(GROUP, inputs)}
        return every[self.coarse], every[self.fine]


_STEPS = (
    _Step(coarse="tensor", fine="channel", has="one scale", gets="one for each output channel"),
    _Step(
        coarse="channel", fine="group", has="one scale for each output channel",
        gets=f"one for each {GROUP} inputs",
    ),
)  # fmt: skip


def _granularity(site: str, values: Values, step: _Step) -> Iterator[Finding]:
    """Integer scales for a weight whose outputs, inputs, or single elements differ in size."""
    spread = max(values["output_spread"], values["input_spread"])
    # Where one row holds nearly all the energy, it is the others that one scale loses.
    large = step.coarse == "tensor" and values["output_spread"] >= _SPREAD
    large = large and {"int4_tensor.outputs_db", "int4_channel.outputs_db"} <= values.keys()
    key = "outputs_db" if large else "sqnr_db"
    coarse, fine = (values[f"int4_{one}.{key}"] for one in (step.coarse, step.fine))
    excess = fine - coarse - granularity_gain_db(*step.sharing(values))
    error = 1.96 * values.get(f"int4_{step.fine}.sqnr_se_db", 0.0)
    if excess - error < NOTICE_DB:
        return
    remedy = f"{step.gets} instead: gains {fine - coarse:.1f} dB"
    group = values.get(f"int4_group.{key}", fine)
    if group - fine >= _WORTH_DB:
        remedy += f", {_STEPS[-1].gets} {group - coarse:.1f} dB"
    what = (
        f"an output of {site}, its largest being {values['output_spread']:.3g} times the median"
        if large
        else site
    )
    yield finding(
        site, values,
        claim=f"INT4 with {step.has} keeps {round(coarse, 1) + 0.0:.1f} dB of {what}; {step.gets} "
        f"gains {excess:.1f} dB more than it would on normal weights",
        cause=Cause.CHANNEL_OUTLIER if spread >= _SPREAD else Cause.TOO_FEW_BITS,
        severity=Severity.WARN if excess - error >= WARN_DB else Severity.INFO,
        effect=excess, low=excess - error, high=excess + error,
        unit="dB gained beyond normal weights",
        remedy=remedy,
    )  # fmt: skip
