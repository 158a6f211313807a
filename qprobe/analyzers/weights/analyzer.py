"""The analyzer ``weights``: what can be said of a checkpoint without data."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from qprobe.analyzers.weights import findings, measurement, packed_findings
from qprobe.analyzers.weights.measurement import PROBE, Depth
from qprobe.checkpoints import Checkpoint
from qprobe.records.schema import Cause, Finding, Record, Severity


class WeightAnalyzer:
    """Measures every weight of a checkpoint and says which would suffer in four bits, and why.

    Without a score no finding is more than a warning.
    """

    name = "weights"
    reads: frozenset[str] = frozenset()

    def measure_checkpoint(
        self, checkpoint: Checkpoint, depth: Depth = Depth.FULL
    ) -> Iterator[Record]:
        """Records of every weight, as they come, in memory bounded by one weight."""
        return measurement.measure(checkpoint, depth)

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """Findings, the gravest first."""
        sites: dict[str, dict[str, float]] = defaultdict(dict)
        for record in records:
            if record.probe == PROBE and record.site:
                sites[record.site][record.key] = record.value
        found = list(_duplicates(sites))
        for site, values in sites.items():
            found += findings.of(site, values)
            found += packed_findings.of(site, values)
        grave = list(Severity)
        return sorted(found, key=lambda f: (-grave.index(f.severity), f.unit, -f.effect))


def _duplicates(sites: dict[str, dict[str, float]]) -> Iterator[Finding]:
    same: dict[tuple[float, float], list[str]] = defaultdict(list)
    for site, values in sites.items():
        if "digest" in values and values.get("absmax"):
            same[values["digest"], values["n"]].append(site)
    for (_, n), names in same.items():
        if len(names) > 1:
            yield findings.finding(
                names[0],
                {"n": n},
                claim=f"{' and '.join(names)} are the same to the bit",
                cause=Cause.NOT_EXPLAINED,
                severity=Severity.INFO,
                sites=tuple(names),
                effect=float(len(names)),
                unit="copies",
                remedy="tied on purpose: quantize them alike; else one of them was overwritten",
            )
