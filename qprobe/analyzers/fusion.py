"""Does one branch of a fusion starve another, and is four bits the reason?"""

from collections.abc import Iterator, Sequence
from math import inf, isinf

from qprobe.analyzers.measured import Measured, Place
from qprobe.analyzers.observation import control
from qprobe.records.schema import Cause, Finding, Record, Role, Severity, severity

NAME = "fusion"
ENERGY = "branch_energy"
UNIT = "nats of gradient energy"
CONTROL = "the same fusion at the same weights in high precision"
REFERENCE = "Q²: Quantization-Aware Gradient Balancing, eq. 9; docs/concepts/gradients.md"
#: Nats between the branches of a concatenation from which the weaker one starves: healthy models
#: reach 1.7, and 4 is a gradient seven times as small.
CONCATENATED = 4.0
#: Of an addition, where healthy residual branches reach 10.4 by themselves: 14 is a gradient a
#: thousand times as small.
ADDED = 14.0
#: Nats beyond the control from which four bits is the reason; healthy models differ by 0.3.
BEYOND = 1.0


class Fusion:
    """Compares the gradient energy of each branch with the others, and with high precision."""

    name = NAME
    reads = frozenset({ENERGY, control(ENERGY)})

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """One finding a fusion of which a branch starves."""
        mine, theirs = Measured(records, ENERGY), Measured(records, control(ENERGY))
        return [one for place in mine.places(Role.OUTPUT) for one in _of(place, mine, theirs)]


def _of(place: Place, mine: Measured, theirs: Measured) -> Iterator[Finding]:
    now, plain = mine.at(place).get("imbalance"), theirs.at(place).get("imbalance")
    if now is None:
        return
    limit = ADDED if "/add." in place.site else CONCATENATED
    beyond = None if plain is None else _beyond(now, plain)
    by_bits = beyond is not None and beyond >= BEYOND
    if now < limit and not by_bits:
        return
    branch = min(_deviations(place, mine), key=lambda one: one[1], default=("a branch", 0.0))[0]
    yield Finding(
        analyzer=NAME,
        claim=(f"{branch} of {place.site} gets {_less(now)}{_compared(plain, by_bits=by_bits)}"),
        cause=Cause.BRANCH_DEAD,
        severity=severity(None, unscored=Severity.WARN if now >= limit else Severity.INFO),
        sites=(place.site,),
        roles=(Role.BRANCH,),
        effect=now,
        unit=UNIT,
        low=now,
        high=now,
        n=max(1, int(mine.at(place).get("n", _samples(place, mine)))),
        control=CONTROL,
        remedy=(
            "put the branch's last layers back to high precision"
            if by_bits
            else "balance the fusion with a gate or a norm on each branch, or look for a detached "
            "tensor; more bits do not help"
        ),
        reference=REFERENCE,
    )


def _beyond(now: float, plain: float) -> float:
    if isinf(now):
        return 0.0 if isinf(plain) else inf
    return now - plain


def _deviations(place: Place, mine: Measured) -> Iterator[tuple[str, float]]:
    for key, value in mine.at(place).items():
        branch, dot, what = key.partition(".")
        if dot and what == "deviation":
            yield branch, value


def _samples(place: Place, mine: Measured) -> float:
    """The samples of a branch, where the fusion itself counts none."""
    return mine.at(Place(place.site, Role.BRANCH)).get("n", 1.0)


def _less(nats: float) -> str:
    """What is missing, in words.

    >>> _less(inf), _less(2.5)
    ('no gradient', '2.5 nats less gradient energy than the strongest branch')
    """
    if isinf(nats):
        return "no gradient"
    return f"{nats:.1f} nats less gradient energy than the strongest branch"


def _compared(plain: float | None, *, by_bits: bool) -> str:
    if plain is None:
        return "; the control was not measured"
    if by_bits:
        return f"; in high precision {_less(plain)}"
    return ", and as little in high precision: four bits is not the reason"
