"""What watching a training costs: sessions of qprobe, and what others compute, on the same steps.

    python benchmarks/overhead.py [--quick] [--rounds 2]

One thread of a CPU; the clock counts this thread's CPU time. Every round runs the plain step, the
floor (one ``torch.sum`` of every tensor that is watched) and each variant once, so that whatever
slows the machine slows all of them. "Looking" is the time inside the observers and "flush" what
turns a look into named numbers, both over the rest of the same step; "end to end" is the whole step
over the plain step of its round.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from time import thread_time
from typing import TYPE_CHECKING

import torch
from interleaved import machine
from overhead_end_to_end import EndToEnd, Twin, end_to_end, idle, unit
from overhead_models import Training, cnn, vit
from overhead_peers import PEERS
from overhead_truth import kurtosis_errors
from summary import eager
from torch import Tensor

import qprobe
from qprobe.probes.attention_logits import AttentionLogits
from qprobe.probes.block_scales import BlockScales
from qprobe.probes.gradient_fidelity import GradientFidelity
from qprobe.probes.operand_error import OperandError
from qprobe.probes.schedule import ON_DEMAND
from qprobe.probes.session import Session
from qprobe.probes.softmax_levels import SoftmaxLevels
from qprobe.probes.summary import Summary
from qprobe.sites import Capture, Site

if TYPE_CHECKING:
    from qprobe.probes.base import Probe

FULL: "list[str | Probe]" = ["moments", "histogram", "four_bit"]
RECIPE = "nvfp4-2d-rht-sr"
#: Percent of the rest of a step, by row and column of the table.
GOALS = {
    ("ViT float32", "qprobe, native"): (4.0, 0.6),
    ("ViT bfloat16", "qprobe, native"): (8.0, 0.9),
    ("ViT float32", "qprobe, PyTorch"): (32.0, 3.2),
    ("ViT float32", "qprobe, PyTorch, moments"): (26.0, 2.6),
    ("ViT float32", "attention"): (1.2, 0.12),
    ("CNN float32", "qprobe, native"): (8.0, 0.8),
}
#: Times one ``torch.sum`` of every tensor, for the same variant.
FLOORS = {("ViT float32", "qprobe, native"): 6.0, ("ViT bfloat16", "qprobe, native"): 6.0}
#: Percent of ten steps that one look among them may cost, end to end.
END_TO_END = 1.0
#: Groups of four steps that it is measured in.
UNITS = 36


@dataclass(slots=True, kw_only=True)
class Row:
    """One variant: shares of the rest of the step, each a value a round."""

    name: str
    #: Steps between two looks that the second column stands for.
    every: int = 10
    looking: list[float] = field(default_factory=list)
    flush: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    #: Seconds spent on looking.
    seconds: list[float] = field(default_factory=list)

    def add(self, looking: float, flush: float, total: float, plain: float) -> None:
        rest = total - looking - flush
        self.looking.append(looking / rest)
        self.flush.append(flush / rest)
        self.whole.append(total / plain - 1.0)
        self.seconds.append(looking)


Variant = Callable[[], tuple[float, float, float]]


def of_session(
    training: Training, session: Session, setting: Callable[[], AbstractContextManager[None]]
) -> tuple[float, float, float]:
    """Seconds of looking, of the flush and of everything, for one step that is looked at."""
    session.observe_next()
    began, before = thread_time(), session.report().seconds
    with setting():
        training.step()
        stepped = thread_time()
        session.step()
    ended = thread_time()
    seen = session.report().seconds - before
    flush = min(ended - stepped, seen)
    return seen - flush, flush, ended - began


class Timed:
    """Calls a function with every tensor of a capture, and adds up how long it takes."""

    def __init__(self, look: Callable[[Tensor], object]) -> None:
        self.look, self.seconds = look, 0.0

    def __call__(self, site: Site, tensor: Tensor) -> None:
        began = thread_time()
        self.look(tensor)
        self.seconds += thread_time() - began


def of_function(training: Training, look: Callable[[Tensor], object]) -> tuple[float, float, float]:
    timed, began = Timed(look), thread_time()
    with Capture(training.model, training.sites, timed) as capture:
        training.step()
        capture.read_weights()
    return timed.seconds, 0.0, thread_time() - began


def sessions(training: Training, stack: ExitStack) -> dict[str, tuple[Variant, int]]:
    """The variants of qprobe, and how many steps apart they look by default."""
    heavy: dict[str, Probe] = {
        "operand_error": OperandError(RECIPE),
        "block_scales": BlockScales(RECIPE),
        "gradient_fidelity": GradientFidelity(RECIPE),
    }
    plans: dict[str, tuple[list[str | Probe], Callable[[], AbstractContextManager[None]], int]] = {
        "qprobe, native": (FULL, nullcontext, 10),
        "qprobe, PyTorch": (FULL, eager, 10),
        "qprobe, PyTorch, moments": (["moments"], eager, 10),
    }
    if training.name == "ViT float32":
        plans["attention"] = ([AttentionLogits("nvfp4"), SoftmaxLevels("nvfp4")], nullcontext, 10)
        plans |= {name: ([probe], nullcontext, 100) for name, probe in heavy.items()}
    found: dict[str, tuple[Variant, int]] = {}
    for name, (probes, setting, every) in plans.items():
        names = [one if isinstance(one, str) else one.name for one in probes]
        session = stack.enter_context(
            qprobe.attach(
                training.model,
                probes=probes,
                sites=training.sites if every == 10 and name != "attention" else None,
                schedule=dict.fromkeys(names, ON_DEMAND),
                example=training.x if name == "attention" else None,
                clock=thread_time,
                arrays=0,
            )
        )
        found[name] = (partial(of_session, training, session, setting), every)
    return found


def measure(training: Training, rounds: int) -> tuple[list[Row], float]:
    """All variants on one model, and the seconds of a plain step."""
    with ExitStack() as stack:
        floor = (partial(of_function, training, torch.sum), 10)
        variants = {"one torch.sum a tensor": floor, **sessions(training, stack)}
        if training.name.startswith("ViT"):
            variants |= {k: (partial(of_function, training, f), 10) for k, f in PEERS.items()}
        rows = {name: Row(name=name, every=every) for name, (_, every) in variants.items()}
        plain_steps = []
        for counted in [False, *[True] * rounds]:
            began = thread_time()
            training.step()
            plain = thread_time() - began
            plain_steps.append(plain)
            for name, (variant, _) in variants.items():
                found = variant()
                if counted:
                    rows[name].add(*found, plain)
    return list(rows.values()), median(plain_steps[1:])


@contextmanager
def watched(training: Training) -> Iterator[Twin]:
    """A training, and its steps under a session that looks when it is told to."""
    on_demand = dict.fromkeys(map(str, FULL), ON_DEMAND)
    with qprobe.attach(
        training.model, probes=FULL, sites=training.sites, schedule=on_demand, arrays=0
    ) as session:

        def look() -> None:
            session.observe_next()
            watched_step(training, session)

        look()  # summaries are made
        step = partial(watched_step, training, session)
        yield Twin(plain=training.step, watched=step, look=look)


def plainly(training: Training) -> Twin:
    """The same without a session."""
    return Twin(plain=training.step, watched=training.step, look=training.step)


def in_ten(size: str, units: int, waiting: int) -> EndToEnd:
    """One look in ten steps; half of the units watch one twin, half the other."""
    found, idling = [], []
    for one, two in (two_of(size), two_of(size)[::-1]):
        one.step()
        with watched(two) as twin:
            found += [unit(plainly(one), twin) for _ in range(-(-units // 2))]
    for one, two in (two_of("idle"), two_of("idle")[::-1]):
        with watched(two) as twin:
            idling.append(idle(plainly(one), twin, waiting))
    return end_to_end(found, sum(idling) / 2)


def two_of(size: str) -> list[Training]:
    """Two trainings that do the same."""
    return [vit(size) for _ in range(2)]


def not_due(rounds: int) -> tuple[float, float]:
    """Milliseconds of a step at which nothing is due, with and without a session; fastest of many.

    On a model of two blocks with so little work that microseconds show.
    """
    training = vit("quick")
    plain, watched = [], []
    for _ in range(20 * rounds):
        plain.append(milliseconds(training.step))
        with qprobe.attach(
            training.model, probes=FULL, sites=training.sites, every=10**6, start=1
        ) as session:
            both = partial(watched_step, training, session)
            watched += [milliseconds(both) for _ in range(2)]  # the first meets cold caches
    return min(watched), min(plain)


def watched_step(training: Training, session: Session) -> None:
    training.step()
    session.step()


def milliseconds(call: Callable[[], object]) -> float:
    began = thread_time()
    call()
    return (thread_time() - began) * 1e3


def percent(values: Sequence[float], over: float = 1.0) -> str:
    low, middle, high = (100 * v / over for v in (min(values), median(values), max(values)))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def judged(limit: float, value: float) -> str:
    """A goal and whether it is met."""
    return f"{limit:g} {'met' if value <= limit else 'missed'}"


def table(training: Training, rows: Sequence[Row], step_s: float) -> str:
    """What was measured on one model, with goals."""
    floor = rows[0].seconds
    lines = [
        f"### {training.name}: a step of {step_s * 1e3:.0f} ms, {len(training.sites)} tensors",
        "",
        "| | looking, % | x floor | flush, % | end to end, % | one in | looking, % | both, % "
        "| goals |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        times = median(one / base for one, base in zip(row.seconds, floor, strict=True))
        both = [a + b for a, b in zip(row.looking, row.flush, strict=True)]
        measured = (100 * median(row.looking), 100 * median(row.looking) / row.every)
        goals = GOALS.get((training.name, row.name), ())
        verdicts = [judged(*pair) for pair in zip(goals, measured, strict=False)]
        if (training.name, row.name) in FLOORS:
            verdicts.append("floor x " + judged(FLOORS[training.name, row.name], times))
        verdict = "; ".join(verdicts) or "–"
        lines.append(
            f"| {row.name} | {percent(row.looking)} | {times:.1f} | {percent(row.flush)} "
            f"| {percent(row.whole)} | {row.every} | {100 * median(row.looking) / row.every:.3f} "
            f"| {100 * median(both) / row.every:.3f} | {verdict} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small models: does it run?")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--end-to-end", action="store_true", help="one look in ten steps alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 1 if given.quick else given.rounds
    print("Machine: " + ", ".join(f"{k} {v}" for k, v in machine().items()) + ".\n")
    size = "quick" if given.quick else "full"
    if not given.end_to_end:
        for make in (partial(vit, size), partial(vit, size, True), partial(cnn, given.quick)):
            training = make()
            print(table(training, *measure(training, rounds)), flush=True)
    ten = in_ten(size, *((4, 4) if given.quick else (UNITS, 400)))
    print(
        f"- one look in ten steps, end to end: {ten.middle:.2f} % "
        f"({ten.low:.2f} to {ten.high:.2f}, "
        f"95 % interval of {ten.units} units), plain mean {ten.mean:.2f} %, of it {ten.idle:.2f} % "
        f"of steps that are not due (goal: {judged(END_TO_END, ten.middle)})"
    )
    print(
        f"- the garbage collector looked through everything in {ten.collected} of them, "
        f"{ten.collecting:.2f} % in the mean"
    )
    due, plain = not_due(rounds)
    print(f"- a step that is not due, of a tiny model: {due:.2f} ms, unwatched {plain:.2f} ms")
    kilobytes = Summary(768).buffer.nbytes / 1000
    print(f"- a summary of 768 channels: {kilobytes:.1f} kB (goal: {judged(64, kilobytes)})")
    for line in kurtosis_errors():
        print(f"- {line}")


if __name__ == "__main__":
    main()
