"""What the codes and scales of a packed weight say: scales that are missing, stale or too wide."""

from collections.abc import Iterator
from math import log2

from qprobe.analyzers.weights.findings import Values, finding
from qprobe.records.schema import Cause, Finding, Severity

_CONTROL = "weights packed by their own largest magnitude"
#: Shares below these are met in healthy weights too: a block or two at the edge of the range.
_SOME = 0.01
_FULL = 0.005
#: The largest of each 16 is a 6 unless its scale was rounded up: one code in 16 at the least.
_LEAST_LARGEST = 0.02
#: Normal weights in MXFP4 have 5 % of codes ±6 where scales round down, 1 % where they round up.
_SATURATED = 0.2
#: Octaves that layers sharing a tensor scale with a larger neighbour leave unused, at most.
_OCTAVES = 4.0
#: Blocks that do not saturate have as many sixes under the largest scale as under any other.
_EXCESS = 1.5


def of(site: str, values: Values) -> Iterator[Finding]:
    """Findings about one packed weight, from its values by key."""
    if "packed" not in values:
        return
    if values.get("invalid", 0.0) > 0:
        yield _scale(
            site, values, "invalid", "NaN, infinite or negative", Cause.SCALE_WRONG,
            "pack the weight again",
        )  # fmt: skip
    if values.get("input_scale_invalid", 0.0) > 0:
        yield _smoothing(site, values)
    if "bits" in values:
        yield from _integers(site, values)
    elif "power_of_two_scales" in values:
        yield from _mxfp4(site, values)
    else:
        yield from _nvfp4(site, values)


def _nvfp4(site: str, values: Values) -> Iterator[Finding]:
    unused = log2(448.0 / values["scale_max"]) if values["scale_max"] > 0 else 0.0
    coarse = values["coarse_scales"]
    missing = values["tensor_scale"] == 1.0
    if missing or unused >= _OCTAVES:
        what = "has no tensor scale (it is 1)" if missing else "has a tensor scale far too large"
        yield finding(
            site, values,
            claim=f"{site} {what}: block scales leave the upper {unused:.1f} octaves of E4M3 "
            f"unused, and {coarse:.1%} of them have lost mantissa bits",
            cause=Cause.SCALE_MISSING if missing else Cause.SCALE_WRONG,
            severity=Severity.WARN if coarse >= _SOME else Severity.INFO,
            effect=coarse,
            unit="share of scales below 2^-6",
            control=_CONTROL,
            remedy="pack it again with the tensor scale amax / 2688",
        )  # fmt: skip
    elif coarse >= _SOME:
        yield _scale(
            site, values, "coarse_scales", "so small that they lost mantissa bits",
            Cause.CHANNEL_OUTLIER, "rotate or smooth the weight first: few large values set the "
            "tensor scale for all",
        )  # fmt: skip
    full, excess = values["full_scales"], values.get("full_scale_excess", 1.0)
    if full >= _FULL and excess >= _EXCESS:
        yield _scale(
            site, values, "full_scales", f"at their largest value, under which {excess:.1f} times "
            "as many codes saturate", Cause.SCALE_WRONG,
            "pack it again with the largest magnitude of these weights: this one is stale",
        )  # fmt: skip
    for key, what in (("flushed", "0 although their codes are not"), ("empty", "of codes 0 only")):
        if values[key] >= _SOME:
            yield _scale(
                site, values, key, what, Cause.SCALE_WRONG,
                "pack these outputs apart: the weights of these blocks are lost",
            )  # fmt: skip
    if values["code_largest"] < _LEAST_LARGEST and values["code_zero"] < 1.0 - _SOME:
        yield _unused(site, values, "code_largest", "of the codes are the largest, ±6")


def _mxfp4(site: str, values: Values) -> Iterator[Finding]:
    """Scales are powers of two: each block fits within an octave, or its scale is another's."""
    if values["low_blocks"] >= _SOME:
        yield _unused(site, values, "low_blocks", "of the blocks reach no code of 3 and more")
    if values["code_largest"] >= _SATURATED:
        yield finding(
            site, values,
            claim=f"the scales of {site} are too small: {values['code_largest']:.1%} of the codes "
            "are the largest, ±6",
            cause=Cause.SCALE_WRONG,
            severity=Severity.WARN,
            effect=values["code_largest"],
            unit="share of codes",
            control=_CONTROL,
            remedy="pack it again with scales from the largest magnitude of each block",
        )  # fmt: skip
    if values["empty"] >= _SOME:
        yield _scale(
            site, values, "empty", "of codes 0 only", Cause.SCALE_WRONG,
            "pack these outputs again: the weights of these blocks are lost",
        )  # fmt: skip


def _smoothing(site: str, values: Values) -> Finding:
    return finding(
        site, values,
        claim=f"{values['input_scale_invalid']:.1%} of the scales of the inputs of {site} "
        "(pre_quant_scale) are zero, negative, NaN or infinite",
        cause=Cause.SCALE_WRONG,
        severity=Severity.WARN,
        effect=values["input_scale_invalid"],
        unit="share of inputs",
        control="a smoothing factor is a finite number above 0",
        remedy="pack the weight again; its inputs are lost or turned round",
    )  # fmt: skip


def _integers(site: str, values: Values) -> Iterator[Finding]:
    if values["unused_groups"] >= _SOME:
        yield _unused(site, values, "unused_groups", "of the groups use less than half the codes")


def _unused(site: str, values: Values, key: str, what: str) -> Finding:
    return finding(
        site, values,
        claim=f"the scales of {site} are too large: {values[key]:.1%} {what}",
        cause=Cause.SCALE_WRONG,
        severity=Severity.WARN,
        effect=values[key],
        unit=f"share ({key})",
        control=_CONTROL,
        remedy="pack it again with scales from the largest magnitude of each block",
    )  # fmt: skip


def _scale(  # noqa: PLR0913 - a row of a table
    site: str, values: Values, key: str, what: str, cause: Cause, remedy: str
) -> Finding:
    return finding(
        site, values,
        claim=f"{values[key]:.1%} of the block scales of {site} are {what}",
        cause=cause,
        severity=Severity.INFO if key == "empty" else Severity.WARN,
        effect=values[key],
        unit="share of block scales",
        n=int(values["groups"]),
        control=_CONTROL,
        remedy=remedy,
    )  # fmt: skip
