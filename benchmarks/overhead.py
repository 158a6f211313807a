"""What watching a training costs: sessions of qprobe, and what others compute, on the same steps.

    python benchmarks/overhead.py [--quick] [--rounds 2]

One thread of a CPU; the clock counts this thread's CPU time. Every round runs the plain step, the
floor (one ``torch.sum`` of every tensor that is watched) and each variant once, so that whatever
slows the machine slows all of them. "Looking" is the time inside the observers and "flush" what
turns a look into named numbers, both over the rest of the same step; "end to end" is the whole step
over the plain step of its round.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from time import thread_time
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from interleaved import machine
from overhead_peers import PEERS
from overhead_truth import kurtosis_errors
from summary import eager
from torch import Tensor, nn

import qprobe
from qprobe.models import build
from qprobe.probes.attention_logits import AttentionLogits
from qprobe.probes.block_scales import BlockScales
from qprobe.probes.gradient_fidelity import GradientFidelity
from qprobe.probes.operand_error import OperandError
from qprobe.probes.schedule import ON_DEMAND
from qprobe.probes.session import Session
from qprobe.probes.softmax_levels import SoftmaxLevels
from qprobe.probes.summary import Summary
from qprobe.records.schema import Role
from qprobe.sites import Capture, Site, discover

if TYPE_CHECKING:
    from qprobe.probes.base import Probe

WATCHED = frozenset({Role.INPUT, Role.WEIGHT, Role.GRAD_OUTPUT})
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


class Block(nn.Module):
    """A block of a vision transformer as others write it: attention inside one module."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """4.2 million parameters; 196 tokens and one that is learned."""

    def __init__(self, image: int = 224, dim: int = 192, depth: int = 9) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 16, 16)
        tokens = (image // 16) ** 2 + 1
        self.token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.position = nn.Parameter(torch.randn(1, tokens, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, max(1, dim // 64)) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 100)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A model and how to take one step of it."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    amp: bool
    optimizer: torch.optim.Optimizer

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.amp):
            loss = self.loss(self.model(self.x), self.y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    @property
    def sites(self) -> list[Site]:
        """Input, weight and gradient of every layer that multiplies, but what is no ViT linear."""
        kinds = ("linear",) if isinstance(self.model, ViT) else ("conv",)
        found = discover(self.model)
        return [s for s in found if s.role in WATCHED and s.kind.startswith(kinds)]


def vit(quick: bool, amp: bool) -> Training:
    torch.manual_seed(0)
    image, dim, depth, batch = (32, 64, 2, 4) if quick else (224, 192, 9, 16)
    model = ViT(image, dim, depth)
    return Training(
        name=f"ViT {'bfloat16' if amp else 'float32'}",
        model=model,
        x=torch.randn(batch, 3, image, image),
        y=torch.randint(0, 100, (batch,)),
        loss=F.cross_entropy,
        amp=amp,
        optimizer=torch.optim.AdamW(model.parameters(), 1e-4),
    )


def cnn(quick: bool) -> Training:
    image, batch = (32, 2) if quick else (128, 16)
    model = build("cnn", "500k", image=image)
    x = torch.randn(batch, 3, image, image)
    return Training(
        name="CNN float32",
        model=model,
        x=x,
        y=(x[:, :1] > 0).float(),
        loss=F.binary_cross_entropy_with_logits,
        amp=False,
        optimizer=torch.optim.AdamW(model.parameters(), 1e-4),
    )


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


def in_ten(training: Training, blocks: int) -> list[float]:
    """End to end of one look in ten steps: blocks of ten, watched over not watched."""
    found = []
    for _ in range(blocks):
        began = thread_time()
        for _ in range(10):
            training.step()
        plain = thread_time() - began
        on_demand = dict.fromkeys(map(str, FULL), ON_DEMAND)
        with qprobe.attach(
            training.model, probes=FULL, sites=training.sites, schedule=on_demand, arrays=0
        ) as session:
            session.observe_next()
            training.step()  # summaries are made
            session.step()
            session.observe_next()
            began = thread_time()
            for _ in range(10):
                training.step()
                session.step()
            found.append((thread_time() - began) / plain - 1.0)
    return found


def not_due(rounds: int) -> tuple[float, float]:
    """Milliseconds of a step at which nothing is due, with and without a session; fastest of many.

    On a model of two blocks with so little work that microseconds show.
    """
    training = vit(quick=True, amp=False)
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
    given = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 1 if given.quick else given.rounds
    print("Machine: " + ", ".join(f"{k} {v}" for k, v in machine().items()) + ".\n")
    for make in (partial(vit, given.quick, False), partial(vit, given.quick, True)):
        training = make()
        print(table(training, *measure(training, rounds)), flush=True)
    training = cnn(given.quick)
    print(table(training, *measure(training, rounds)), flush=True)
    ten = in_ten(vit(given.quick, False), rounds)
    print(
        f"- one look in ten steps, end to end: {percent(ten)} % "
        f"(goal: {judged(END_TO_END, 100 * median(ten))})"
    )
    watched, plain = not_due(rounds)
    print(f"- a step that is not due, of a tiny model: {watched:.2f} ms, unwatched {plain:.2f} ms")
    kilobytes = Summary(768).buffer.nbytes / 1000
    print(f"- a summary of 768 channels: {kilobytes:.1f} kB (goal: {judged(64, kilobytes)})")
    for line in kurtosis_errors():
        print(f"- {line}")


if __name__ == "__main__":
    main()
