"""What watching a tensor costs: a summary against one `torch.sum` of the same tensor.

    python benchmarks/summary.py [--quick] [--json]

One thread of a CPU; how time is measured is in interleaved.py. Each call adds the tensor to a
summary that has seen it before, as a session does step after step. "sample" is the histogram of
magnitudes and the NVFP4 and INT4 error, on one token in eight or on all of them.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from math import prod
from statistics import median

import torch
from interleaved import Call, Case, Timing, machine, measure
from torch import Tensor

from qprobe import native
from qprobe.native import Sampled
from qprobe.probes.summary import ALL, Summary, TokenSample

DTYPES = (torch.float32, torch.bfloat16)
#: Tokens by channels; images are batch, channels, height, width.
SHAPES = (
    (3152, 192),
    (3152, 768),
    (16384, 1024),
    (48828, 1024),
    (16, 64, 32, 32),
    (16, 256, 32, 32),
    (4, 128, 128, 128),
)
QUICK_SHAPES = ((256, 64), (2, 16, 16, 16))
NATIVE, PYTORCH, NAIVE = "native", "PyTorch", "plain PyTorch"
MOMENTS, SAMPLED, WHOLE = "moments", "moments, sample of 1/8", "moments, sample of all"
#: At most so many times the floor.
GOALS = {
    (NATIVE, MOMENTS, torch.float32): 4.5,
    (NATIVE, MOMENTS, torch.bfloat16): 6.0,
    (NATIVE, SAMPLED, torch.float32): 6.0,
    (NATIVE, SAMPLED, torch.bfloat16): 6.0,
    (PYTORCH, MOMENTS, torch.float32): 20.0,
    (PYTORCH, MOMENTS, torch.bfloat16): 20.0,
}
#: Elements a timed call goes over at least: small tensors are taken several times.
ELEMENTS = 4_000_000
#: Larger tensors are left to the kernel: the others need minutes and gigabytes.
LARGEST_EAGER = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One tensor's timing of one variant."""

    shape: tuple[int, ...]
    layout: str
    timing: Timing


@dataclass(slots=True, kw_only=True)
class Report:
    """All that was measured."""

    machine: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    #: Nanoseconds an element of the floor, by layout, shape and dtype.
    floors: dict[str, float] = field(default_factory=dict)


@contextmanager
def eager() -> Iterator[None]:
    """The PyTorch path of a summary."""
    kernels, native.kernels = native.kernels, None
    try:
        yield
    finally:
        native.kernels = kernels


def observing(x: Tensor, measured: Sampled, every: int) -> Call:
    """A call that adds ``x`` to a summary."""
    axis = 1 if x.dim() == 4 else -1
    summary = Summary(x.shape[axis])
    draws = iter(range(1 << 62))

    def call() -> None:
        sample = TokenSample(every=every, draw=next(draws))
        summary.observe(x, axis, sample=sample, measure=measured)

    return call


def plain_moments(x: Tensor) -> object:
    """What one writes at first: kurtosis and largest magnitude of channels and of tokens."""
    axis = 1 if x.dim() == 4 else -1
    rest = [a for a in range(x.dim()) if a != axis % x.dim()]
    found = []
    for over in (rest, [axis]):
        z = (x - x.mean(over, keepdim=True)) / x.std(over, keepdim=True)
        found += [(z**3).mean(over), (z**4).mean(over), x.abs().amax(over)]
    return found


def variants(x: Tensor) -> list[Case]:
    """Everything that is timed on one tensor."""
    measures = {
        MOMENTS: (Sampled.NOTHING, 8),
        SAMPLED: (ALL, 8),
        WHOLE: (ALL, 1),
    }
    made = []
    if native.kernels is not None:
        made += [Case(path=NATIVE, variant=v, call=observing(x, *m)) for v, m in measures.items()]
    if x.numel() <= LARGEST_EAGER:
        made += [
            Case(path=PYTORCH, variant=v, call=observing(x, *measures[v]), setting=eager)
            for v in (MOMENTS, SAMPLED)
        ]
        made.append(Case(path=NAIVE, variant=MOMENTS, call=partial(plain_moments, x)))
    return made


def repeated(call: Call, times: int) -> Call:
    """``times`` calls as one."""

    def calls() -> None:
        for _ in range(times):
            call()

    return calls


def time_tensor(x: Tensor, rounds: int, elements: int) -> tuple[list[Timing], float]:
    """The variants on ``x``, and the floor in nanoseconds an element."""
    times = max(1, elements // x.numel())
    cases = [
        Case(path=c.path, variant=c.variant, call=repeated(c.call, times), setting=c.setting)
        for c in variants(x)
    ]
    timings = measure(cases, repeated(partial(torch.sum, x), times), rounds, x.dtype)
    nanoseconds = median(t.ms / t.ratio for t in timings) * 1e6 / (times * x.numel())
    return timings, nanoseconds


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The tensor as it is, and an image with its channels last."""
    if x.dim() == 2:
        return {"tokens": x}
    return {"NCHW": x, "channels last": x.contiguous(memory_format=torch.channels_last)}


def run(shapes: Sequence[tuple[int, ...]], rounds: int, elements: int) -> Report:
    """Measure everything."""
    report = Report(machine=machine())
    for shape in shapes:
        normal = torch.randn(shape, generator=torch.Generator().manual_seed(prod(shape)))
        for dtype in DTYPES:
            for layout, x in layouts(normal.to(dtype)).items():
                timings, nanoseconds = time_tensor(x, rounds, elements)
                key = f"{layout} {'x'.join(map(str, shape))} {timings[0].dtype}"
                report.floors[key] = nanoseconds
                report.rows += [Row(shape=shape, layout=layout, timing=t) for t in timings]
    return report


def goals(report: Report) -> list[str]:
    """What was aimed at, beside what was measured: the median over tensors and the worst one."""
    lines = []
    for (path, variant, dtype), goal in GOALS.items():
        found = [
            row
            for row in report.rows
            if (row.timing.path, row.timing.variant) == (path, variant)
            and row.timing.dtype == str(dtype).removeprefix("torch.")
        ]
        if not found:
            continue
        for part, wanted in (("tokens", True), ("images", False)):
            ratios = [r.timing.ratio for r in found if (r.layout == "tokens") is wanted]
            verdict = "met" if max(ratios) <= goal else "missed"
            lines.append(
                f"{path}, {variant}, {found[0].timing.dtype}, {part}: median {median(ratios):.1f}, "
                f"worst {max(ratios):.1f} times the floor (goal: at most {goal:g}, {verdict})"
            )
    return lines


def markdown(report: Report) -> str:
    """The report as tables."""
    here = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    columns = list(dict.fromkeys((r.timing.path, r.timing.variant) for r in report.rows))
    lines = [f"Machine: {here}.", "", "Times the floor: median of "]
    lines[-1] += f"{report.rows[0].timing.rounds} rounds (lowest to highest)."
    lines += ["", "| tensor | floor, ns/element |" + "".join(f" {p}: {v} |" for p, v in columns)]
    lines += ["|---|--:|" + "--:|" * len(columns)]
    for name, nanoseconds in report.floors.items():
        cells = {
            (r.timing.path, r.timing.variant): r.timing for r in report.rows if title(r) == name
        }
        lines.append(f"| {name} | {nanoseconds:.3f} |" + "".join(cell(cells, c) for c in columns))
    return "\n".join([*lines, "", *(f"- {goal}" for goal in goals(report))])


def title(row: Row) -> str:
    """A row's tensor."""
    return f"{row.layout} {'x'.join(map(str, row.shape))} {row.timing.dtype}"


def cell(timings: dict[tuple[str, str], Timing], key: tuple[str, str]) -> str:
    """One cell of the table."""
    if key not in timings:
        return " – |"
    t = timings[key]
    return f" {t.ratio:.1f} ({t.lowest:.1f} to {t.highest:.1f}) |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small tensors: does it run?")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    given = parser.parse_args()
    torch.set_num_threads(1)
    shown: Callable[[Report], str] = markdown
    if given.json:
        shown = lambda report: json.dumps(asdict(report), indent=2)  # noqa: E731
    small = given.quick
    print(
        shown(run(QUICK_SHAPES if small else SHAPES, 2 if small else 7, 1 if small else ELEMENTS))
    )


if __name__ == "__main__":
    main()
