"""What a session did, and at what cost."""

from collections.abc import Sequence
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
    #: What a step takes without looks; None before the first.
    step_s: float | None = None
    #: The share of the rest of the time that looking takes on average, at these intervals.
    expected: float = 0.0
    #: The share of the rest of the time that looking may take.
    budget: float | None = None
    #: Steps after which what was looked at above the budget is paid back.
    steps_in_debt: int = 0
    #: What was due and never looked at, since the budget had no room for it.
    waiting: tuple[tuple[str, Site], ...] = ()
    #: Layers that compute something of their own, so that no product of theirs is judged.
    own: tuple[str, ...] = ()
    #: Modules with weights that belong to no site.
    unwatched: tuple[str, ...] = ()
    #: Calls of a loop of which only the first are told apart.
    repeated: tuple[str, ...] = ()

    @property
    def overhead(self) -> float:
        """Time for looking over the rest of the time."""
        return self.seconds / self.others_s if self.others_s else 0.0

    def __str__(self) -> str:
        """In words, one sentence for each thing worth saying.

        >>> print(Report(
        ...     steps=40, looks=3, stretch=2, seconds=0.3, others_s=4.0, missed=(), budget=0.05,
        ...     steps_in_debt=20, waiting=(("moments", Site("head", "input", "linear")),),
        ... ))
        3 looks in 40 steps took 7.5 % of the rest of the time, of 5 % allowed; the excess is paid \
back by waiting 20 steps. Intervals are 2 times as long as asked. 1 planned look never had room in \
the budget: allow more, or train longer.
        """
        said = f"{self.looks} looks in {self.steps} steps took {self.overhead:.1%} of the rest of "
        said = said.replace("%", " %") + "the time"
        if self.budget is not None:
            said += f", of {100 * self.budget:g} % allowed"
        if self.steps_in_debt:
            said += f"; the excess is paid back by waiting {self.steps_in_debt} steps"
        said += "."
        if self.stretch > 1:
            said += f" Intervals are {self.stretch} times as long as asked."
        if self.waiting:
            looks = "planned look" if len(self.waiting) == 1 else "planned looks"
            said += (
                f" {len(self.waiting)} {looks} never had room in the budget: allow more, or train "
                "longer."
            )
        if self.own:
            said += (
                f" No product is judged of what has a forward or a weight of its own: "
                f"{some(self.own)}."
            )
        if self.unwatched:
            said += f" Nothing watches the weights of {some(self.unwatched)}."
        if self.repeated:
            said += f" Of what a loop repeats the first turns are watched: {some(self.repeated)}."
        return said


def never_seen(planned: Sequence[object]) -> str:
    """What to say of planned observations that do not happen."""
    return (
        f"planned and never seen so far: {some(planned)}; the layer does not run, has no "
        "gradient, runs in code that was compiled before or inside torch.func.vmap alone, or an "
        "attention is written in a way that hides its queries and keys: choose other sites or see "
        "session.missed."
    )


def some(names: Sequence[object]) -> str:
    """The first three of them, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(str, names[:3])) + more
