"""What a session did, and at what cost."""

from dataclasses import dataclass

from qprobe.sites import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a session did."""

    steps: int
    #: Steps at which something was looked at.
    looks: int
    #: By how many times intervals are longer than asked for, to keep the budget.
    stretch: int
    #: Seconds that looking took, flushes included, and the rest of the time.
    seconds: float
    others_s: float
    #: What was planned and never happened: names of probes, and sites.
    missed: tuple[tuple[str, Site], ...]

    @property
    def overhead(self) -> float:
        """Time for looking over the rest of the time."""
        return self.seconds / self.others_s if self.others_s else 0.0
