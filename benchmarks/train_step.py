"""What a recipe costs in training: the time of a whole step, as a ratio to the plain step.

    python benchmarks/train_step.py [--quick] [--json]

A step is forward, loss, backward, gradient norm and optimizer, on a batch of 16 and one thread; the
plain step is that of the unquantized layers in float32. How time is measured is in interleaved.py.
INT8 and INT3 recipes do the work of the INT4 ones to the last operation, so these stand for them.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from interleaved import Case, Timing, machine, measure, seconds
from torch import nn

from qprobe.engine import Precision, TrainConfig
from qprobe.engine.data import Batch
from qprobe.engine.evaluation import training_loss
from qprobe.engine.workbench import Workbench, prepare
from qprobe.quant import QuantSpec, recipe, recipes

BATCH = 16
PLAIN = "bf16"
PATIENTS = 8


@dataclass(frozen=True, slots=True)
class Model:
    """What is trained, and in how many rounds: fewer where a step takes a second."""

    arch: str
    size: str
    image: int
    patch: int | None
    rounds: int

    def __str__(self) -> str:
        patch = "" if self.patch is None else f", patch {self.patch}"
        return f"{self.arch} {self.size}, {self.image}²{patch}"


MODELS = (
    Model("cnn", "500k", 64, None, 7),
    Model("cnn", "500k", 128, None, 3),
    Model("cnn", "4m", 64, None, 5),
    Model("swin", "500k", 64, 8, 7),
    Model("swin", "500k", 64, 4, 5),
    Model("swin", "4m", 64, 4, 2),
    Model("vit", "500k", 64, 4, 5),
    Model("vit", "4m", 64, 4, 2),
)
QUICK = (Model("cnn", "tiny", 64, None, 1), Model("swin", "tiny", 64, 8, 1))

#: What a step may cost where gradients stay in high precision, and where they are quantized.
FORWARD_GOAL = 1.2
GRADIENT_GOALS = {"cnn": 1.8, "swin": 1.5, "vit": 1.5}
#: What a batch may cost next to a plain step.
LOADING_GOAL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """What a batch, read and augmented, costs next to the plain step."""

    model: str
    batch_ms: float
    step_ms: float

    @property
    def share(self) -> float:
        """Of a step."""
        return self.batch_ms / self.step_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was measured; ``path`` of a timing is the model, ``variant`` the recipe."""

    machine: dict[str, str]
    timings: list[Timing]
    loading: list[Loading]


def goal(model: str, name: str) -> float:
    """The ratio that a recipe is meant to keep to."""
    rule = recipe(name)
    gradients = any(isinstance(gemm.a, QuantSpec) for gemm in (rule.dgrad, rule.wgrad))
    return GRADIENT_GOALS[model.partition(" ")[0]] if gradients else FORWARD_GOAL


def distinct() -> list[str]:
    """The recipes that quantize, without those that do another one's work."""
    return [one.name for one in recipes() if one.quantizes and one.name[:4] not in ("int8", "int3")]


def workbench(model: Model, name: str, cache: Path) -> Workbench:
    """What `qprobe train` builds, on few patients."""
    options = (("cache", str(cache)), ("patients", PATIENTS))
    return prepare(
        TrainConfig(
            arch=model.arch, size=model.size, image=model.image, patch=model.patch, recipe=name,
            data_options=options, validation=1, test=1, batch=BATCH, device="cpu",
            precision=Precision.FP32,
        )
    )  # fmt: skip


def step(bench: Workbench, batch: Batch) -> None:
    """One training step."""
    bench.optimizer.zero_grad(set_to_none=True)
    training_loss(bench.model(batch.image), batch.mask).backward()
    nn.utils.get_total_norm([p.grad for p in bench.model.parameters() if p.grad is not None])
    bench.optimizer.step()


def time_model(model: Model, names: Sequence[str], cache: Path) -> tuple[list[Timing], Loading]:
    """Every recipe on one model."""
    plain = workbench(model, PLAIN, cache)
    batch = next(iter(plain.train))
    floor: Callable[[], None] = partial(step, plain, batch)
    cases = [
        Case(
            path=str(model), variant=name, call=partial(step, workbench(model, name, cache), batch)
        )
        for name in names
    ]
    timings = measure(cases, floor, model.rounds, torch.float32)
    step_ms = median(timing.ms / timing.ratio for timing in timings)
    batches = [seconds(lambda: list(plain.train)) for _ in range(model.rounds + 1)][1:]
    batch_ms = median(batches) / len(plain.train) * 1e3
    return timings, Loading(model=str(model), batch_ms=batch_ms, step_ms=step_ms)


def run(models: Sequence[Model], names: Sequence[str]) -> Report:
    """Measure everything."""
    timings: list[Timing] = []
    loading: list[Loading] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            timed, loaded = time_model(model, names, Path(folder))
            timings += timed
            loading.append(loaded)
    return Report(machine=machine(), timings=timings, loading=loading)


def markdown(report: Report) -> str:
    """The report as tables: recipes by models, then the data."""
    models = [loaded.model for loaded in report.loading]
    names = list(dict.fromkeys(timing.variant for timing in report.timings))
    cells = {(t.path, t.variant): _cell(t) for t in report.timings}
    plain = {loaded.model: f"{loaded.step_ms:.0f} ms" for loaded in report.loading}
    lines = [
        "Machine: " + ", ".join(f"{name} {value}" for name, value in report.machine.items()) + ".",
        "",
        f"| recipe | {' | '.join(models)} |",
        "|---|" + "--:|" * len(models),
        f"| plain step | {' | '.join(plain[model] for model in models)} |",
        *(f"| {n} | {' | '.join(cells[model, n] for model in models)} |" for n in names),
        "",
        "| model | batch, ms | share of a plain step |",
        "|---|--:|--:|",
        *(f"| {one.model} | {one.batch_ms:.2f} | {one.share:.1%} |" for one in report.loading),
        "",
        *_verdict(report),
    ]
    return "\n".join(lines)


def _cell(timing: Timing) -> str:
    text = f"{timing.ratio:.2f} ({timing.lowest:.2f} to {timing.highest:.2f})"
    return text if timing.ratio <= goal(timing.path, timing.variant) else f"**{text}**"


def _verdict(report: Report) -> list[str]:
    missed = [t for t in report.timings if t.ratio > goal(t.path, t.variant)]
    slow = [one.model for one in report.loading if one.share > LOADING_GOAL]
    return [
        f"- {len(report.timings) - len(missed)} of {len(report.timings)} steps keep to their goal "
        f"({FORWARD_GOAL}x where gradients are not quantized, else {GRADIENT_GOALS['cnn']}x on the "
        f"CNN and {GRADIENT_GOALS['vit']}x on transformers); the others are in bold.",
        f"- data at most {LOADING_GOAL:.0%} of a step: "
        + (f"missed by {', '.join(slow)}" if slow else "met by every model"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny models, one round: does it run?")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--models", default="", help="only those whose description has this text")
    given = parser.parse_args()
    torch.set_num_threads(1)
    models = [one for one in (QUICK if given.quick else MODELS) if given.models in str(one)]
    report = run(models, distinct())
    print(json.dumps(asdict(report), indent=2) if given.json else markdown(report))


if __name__ == "__main__":
    main()
