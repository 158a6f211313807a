"""Which remedy is tried at which layer in a short run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qprobe.analyzers import conformance
from qprobe.analyzers.remedies import TRANSFORMS
from qprobe.analyzers.verification_findings import HIGH, LOST, intervals, recoveries
from qprobe.inference import Interval
from qprobe.records.schema import Finding, Record, Severity

#: Every layer as it is; the same from weights moved a little, under another seed.
AS_IS, SEED = "as it is", "another seed"
#: The quantizer that does what the layer's recipe says.
INTENDED = "as intended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A remedy at a layer: a recipe's name, ``INTENDED``, or the layer in high precision."""

    site: str
    remedy: str


def trials(
    sites: Sequence[str], findings: Sequence[Finding], records: Sequence[Record]
) -> list[Trial]:
    """For each layer the remedy that promises most, where there is one, and the control.

    A quantizer that does not do what its recipe says is put right. Else it is the recipe under
    which the layer's backward products were measured to lose least, or the one under which its
    forward product was measured to recover most. Transforms of weights are for models that are not
    trained any more.
    """
    wrong = {
        site
        for one in findings
        if one.analyzer == conformance.NAME and one.severity.reaches(Severity.WARN)
        for site in one.sites
    }
    gained = recoveries(records)
    found: list[Trial] = []
    for site in dict.fromkeys(sites):
        name = INTENDED if site in wrong else _least(site, records) or _most(gained.get(site, {}))
        if name is not None:
            found.append(Trial(site=site, remedy=name))
        found.append(Trial(site=site, remedy=HIGH))
    return found


def _least(site: str, records: Sequence[Record]) -> str | None:
    """The recipe under which the layer's backward products, the worst of them, lose least."""
    worst: dict[str, float] = {}
    for (where, _), rules in intervals(records, LOST).items():
        _, *others = rules.items()  # the first one is the layer's own
        for name, share in others if where == site else ():
            worst[name] = max(worst.get(name, 0.0), abs(share.estimate))
    return min(worst, key=lambda name: worst[name], default=None)


def _most(remedies: Mapping[str, Interval]) -> str | None:
    """The recipe that recovered most, sure or not: the short run is to decide."""
    gains = {
        name: one.estimate
        for name, one in remedies.items()
        if one.estimate > 0.0 and name != HIGH and name not in TRANSFORMS
    }
    return max(gains, key=lambda name: gains[name], default=None)
