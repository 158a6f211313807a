"""What the records of a verification say: which remedy helps a layer, and which does not."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from qprobe.analyzers.dequantization.findings import LOST as TOLD
from qprobe.inference import Interval, of_family
from qprobe.records.schema import Cause, Finding, Record, Role, Severity, severity

#: The probe under which verifications are filed, and how their keys begin.
PROBE = "verification"
RECOVERY = "recovery."
LOST = "lost_decrease."
#: The name of the remedy that leaves the format: the layer in high precision.
HIGH = "bf16"
LEVEL = 0.95
_CONTROL = (
    "the same weights and batches with the layer as it is; paired draws of the same groups; limits "
    "hold for all remedies together"
)
_REFERENCE = "measured: applied to this layer alone, scored, and undone"
_ROLES = {"dy": Role.GRAD_OUTPUT, "x": Role.INPUT, "w": Role.WEIGHT}

Recoveries = dict[str, dict[str, Interval]]


def recoveries(records: Sequence[Record]) -> Recoveries:
    """What each remedy gains at each layer: ``{layer: {remedy: interval}}``, the best first.

    Limits of remedies within the format hold for all that were tried together: the best of many is
    one that was lucky, too. The layer in high precision is what they are held against.
    """
    found = intervals(records, RECOVERY)
    tried = sum(name != HIGH for names in found.values() for name in names)
    return {
        site: {
            name: one if name == HIGH else of_family(one, tried)
            for name, one in sorted(names.items(), key=lambda both: -both[1].estimate)
        }
        for (site, _), names in found.items()
    }


def best(remedies: Mapping[str, Interval]) -> tuple[str, Interval] | None:
    """The remedy within the format that gains most, where its gain is sure."""
    sure = {n: one for n, one in remedies.items() if n != HIGH and one.low > 0.0}
    name = max(sure, key=lambda n: sure[n].estimate, default=None)
    return None if name is None else (name, sure[name])


def findings(records: Sequence[Record]) -> list[Finding]:
    """One finding for each layer, and one for what does not help there."""
    base = intervals(records, "score.quantized").get(("", ""), {}).get("")
    found = []
    for site, remedies in recoveries(records).items():
        found += [*_of_site(site, remedies, base)]
    for (site, role), rules in intervals(records, LOST).items():
        found += [*_of_product(site, role, rules)]
    return found


def words(name: str, site: str) -> str:
    """How a remedy is taken.

    >>> words("int4-channel-token", "head")
    "override(model, {'head': 'int4-channel-token'})"
    >>> words("smooth", "head")
    "qprobe.quant.ptq.smooth(model, 'head', ...)"
    """
    if name in ("smooth", "rotate", "svd"):
        return f"qprobe.quant.ptq.{name}(model, {site!r}{', ...' if name == 'smooth' else ''})"
    return f"override(model, {{{site!r}: {name!r}}})"


def _of_site(
    site: str, remedies: Mapping[str, Interval], base: Interval | None
) -> Iterator[Finding]:
    chosen, high = best(remedies), remedies.get(HIGH)
    if chosen is not None:
        name, gain = chosen
        share = ""
        if high is not None and high.low > 0.0:
            share = f", {gain.estimate / high.estimate:.0%} of what high precision recovers there"
        yield _finding(
            site, gain,
            claim=f"verified: {name} at {site} recovers {gain.estimate:.4g}{share}",
            severity=_severity(gain, base),
            remedy=words(name, site),
        )  # fmt: skip
    useless = {n: one for n, one in remedies.items() if n != HIGH and one.low <= 0.0}
    if useless:
        name, gain = max(useless.items(), key=lambda both: both[1].estimate)
        yield _finding(
            site, gain,
            claim=f"verified: {', '.join(sorted(useless))} at {site} does not help beyond doubt",
            severity=Severity.INFO,
            remedy="do not take it for this layer"
            if chosen is not None
            else f"keep the layer in high precision: {words(HIGH, site)}",
        )  # fmt: skip


def _severity(gain: Interval, base: Interval | None) -> Severity:
    if base is None or not base.estimate:
        return severity(None)
    return severity(gain.low / abs(base.estimate))


def _of_product(site: str, role: str, rules: Mapping[str, Interval]) -> Iterator[Finding]:
    """The first rule is the layer's own; the others are what could be done."""
    (own, before), *others = rules.items()
    if not others or before.low < TOLD:
        return
    # A share below 0 is a gradient that overshoots: as wrong as one that falls short.
    name, after = min(others, key=lambda both: abs(both[1].estimate))
    helps = max(after.high, -after.low) < before.low
    verb = "loses" if helps else "does not lose surely less:"
    yield _finding(
        site, after,
        claim=f"verified: {role} at {site} {verb} {after.estimate:.1%} of the first-order loss "
        f"decrease under {name}, {before.estimate:.1%} under {own}",
        severity=Severity.INFO,
        unit="share of the first-order loss decrease",
        roles=(_ROLES[role.split()[-1]],),
        control="the same product in high precision; the layer under its own recipe",
        remedy=words(name, site) if helps else "leave this operand in high precision",
    )  # fmt: skip


def _finding(site: str, gain: Interval, **facts: object) -> Finding:
    filled = {
        "analyzer": PROBE,
        "cause": Cause.NOT_EXPLAINED,
        "sites": (site,),
        "roles": (Role.INPUT, Role.WEIGHT),
        "effect": gain.estimate,
        "unit": "score",
        "low": gain.low,
        "high": gain.high,
        "n": gain.n,
        "control": _CONTROL,
        "reference": _REFERENCE,
    }
    return Finding(**(filled | facts))  # type: ignore[arg-type]


def intervals(
    records: Sequence[Record], prefix: str, probe: str = PROBE
) -> dict[tuple[str, str], dict[str, Interval]]:
    """Complete intervals whose key begins so, by site and role and by what follows."""
    parts: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(dict)
    for one in records:
        if one.probe == probe and one.key.startswith(prefix):
            name, _, part = one.key.removeprefix(prefix).rpartition(".")
            if part not in ("low", "high", "n"):
                name, part = one.key.removeprefix(prefix), "estimate"
            parts[one.site, one.role].setdefault(name, {})[part] = one.value
    found: dict[tuple[str, str], dict[str, Interval]] = {}
    for place, names in parts.items():
        for name, values in names.items():
            if len(values) == 4:
                found.setdefault(place, {})[name] = Interval(
                    estimate=values["estimate"], low=values["low"], high=values["high"],
                    level=LEVEL, n=int(values["n"]), method="recorded",
                )  # fmt: skip
    return found
