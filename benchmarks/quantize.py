"""NVFP4 and INT4 fake quantization on the CPU, against a copy and against other libraries.

    python benchmarks/quantize.py [--quick] [--json] [--fp-quant CHECKOUT]

Before timing, all paths of qprobe are checked to give the same bits, and the values of the other
libraries are compared with qprobe's, so that what is timed is the same work. How time is measured
is in interleaved.py; which libraries there are, and what is called, is in nvfp4_peers.py.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import nvfp4_peers
import torch
from interleaved import Call, Case, Timing, machine, measure, seconds
from nvfp4_peers import Peer
from torch import Tensor

from qprobe import native
from qprobe.native import InstructionSet
from qprobe.quant import (
    INT4,
    NVFP4,
    Granularity,
    QuantSpec,
    Rounding,
    Tile,
    fake_quantize,
    quantize,
)

NEAREST = QuantSpec(format=NVFP4)
STOCHASTIC = QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC)
TILES = QuantSpec(format=NVFP4, tile=Tile.TWO_D)
DTYPES = (torch.float32, torch.bfloat16)
FLOOR, PYTORCH, PEER = "floor", "PyTorch", "peer"
#: The variant that the goals are about.
PLAIN = "last axis, warm output"
#: At most this many times a copy; and a peer takes at least PEER_GOAL times as long.
NATIVE_GOAL, PYTORCH_GOAL, PEER_GOAL = 3.0, 8.0, 10.0
#: Calls timed together for the small tensors.
BATCH = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How a peer's values compare with qprobe's, as fractions of all elements."""

    peer: str
    version: str
    dtype: str
    equal: float
    #: Within 2^-21 of the value: what another order of multiplications may change.
    close: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Microseconds of one call on a small square tensor, float32, into a warm buffer."""

    path: str
    side: int
    us: float


@dataclass(slots=True, kw_only=True)
class Report:
    """All that was measured."""

    size: int
    machine: dict[str, str]
    timings: list[Timing] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)
    overheads: list[Overhead] = field(default_factory=list)
    #: Libraries that could not be imported, and why.
    absent: dict[str, str] = field(default_factory=dict)


@contextmanager
def using(limit: InstructionSet | None) -> Iterator[None]:
    """qprobe's kernels up to an instruction set, or, for ``None``, its PyTorch path."""
    kernels = native.kernels
    if kernels is None or limit is None:
        native.kernels = None
    else:
        kernels.select(limit)
    try:
        yield
    finally:
        native.kernels = kernels
        if kernels is not None:
            kernels.select(InstructionSet.AVX512)


def paths() -> dict[str, InstructionSet | None]:
    """qprobe's implementations on this machine, the fastest first."""
    found: dict[str, InstructionSet | None] = {}
    for limit in sorted(InstructionSet, reverse=True):
        with using(limit):
            if native.kernels is not None and native.kernels.instruction_set is limit:
                found[f"native {limit.name.lower()}"] = limit
    return {**found, PYTORCH: None}


def load_peers(checkout: Path | None) -> tuple[list[Peer], dict[str, str]]:
    """The libraries that can be imported, and for each other one the reason."""
    known: dict[str, Callable[[], Peer]] = {
        "Transformer Engine": nvfp4_peers.transformer_engine,
        "torchao": nvfp4_peers.torchao,
        "ModelOpt": nvfp4_peers.modelopt,
    }
    if checkout is not None:
        known["FP-Quant"] = partial(nvfp4_peers.fp_quant, checkout)
    found, absent = [], {} if checkout else {"FP-Quant": "no --fp-quant CHECKOUT given"}
    for name, load in known.items():
        try:
            found.append(load())
        except ImportError as error:
            absent[name] = str(error)
    return found, absent


def agreements(x: Tensor, peers: Sequence[Peer]) -> list[Agreement]:
    """Compare values with each peer, once qprobe's own paths are known to agree to the bit."""
    ours = fake_quantize(x, NEAREST)
    own = paths()
    for name, limit in own.items():
        with using(limit):
            if not torch.equal(fake_quantize(x, NEAREST).view(torch.uint8), ours.view(torch.uint8)):
                sys.exit(f"{name} and {next(iter(own))} give different bits: nothing to time.")
    found = []
    for peer in peers:
        theirs = peer.fake_quantize(x)
        close = torch.isclose(theirs.float(), ours.float(), rtol=2.0**-21, atol=0.0)
        found.append(
            Agreement(
                peer=peer.name,
                version=peer.version,
                dtype=str(x.dtype).removeprefix("torch."),
                equal=(theirs == ours).float().mean().item(),
                close=close.float().mean().item(),
            )
        )
    return found


def plain(x: Tensor) -> dict[str, Call]:
    """What the goals are about."""
    return {PLAIN: partial(fake_quantize, x, NEAREST, out=torch.empty_like(x))}


def block_variants(x: Tensor) -> dict[str, Call]:
    """All that is timed of NVFP4 on a path of qprobe."""
    out = torch.empty_like(x)
    draws = torch.Generator().manual_seed(0)
    return plain(x) | {
        "last axis, fresh output": partial(fake_quantize, x, NEAREST),
        "first axis, warm output": partial(fake_quantize, x, NEAREST, axis=0, out=out),
        "2D tiles, warm output": partial(fake_quantize, x, TILES, out=out),
        "stochastic, warm output": partial(fake_quantize, x, STOCHASTIC, generator=draws, out=out),
        "codes and scales, `quantize`": partial(quantize, x, NEAREST),
    }


def integer_variants(x: Tensor) -> dict[str, Call]:
    """INT4 on a path of qprobe."""
    out = torch.empty_like(x)
    shared = (Granularity.TOKEN, Granularity.TENSOR)
    specs = {f"INT4 per {g}": QuantSpec(format=INT4, granularity=g) for g in shared}
    return {name: partial(fake_quantize, x, spec, out=out) for name, spec in specs.items()}


def cases(x: Tensor, peers: Sequence[Peer]) -> list[Case]:
    """Everything that is timed on one tensor; the slower instruction sets only where goals are."""
    own = paths()
    fastest = next(iter(own))
    made = [Case(path=FLOOR, variant="fresh copy, `clone`", call=x.clone)]
    for path, limit in own.items():
        whole = path in (fastest, PYTORCH)
        calls = block_variants(x) | integer_variants(x) if whole else plain(x)
        setting = partial(using, limit)
        made += [Case(path=path, variant=v, call=c, setting=setting) for v, c in calls.items()]
    made += [Case(path=PEER, variant=p.name, call=partial(p.fake_quantize, x)) for p in peers]
    return made


def overheads(sides: Sequence[int], rounds: int) -> list[Overhead]:
    """Time of a call on tensors so small that the time is not spent on elements."""
    found = []
    for side in sides:
        x = torch.randn(side, side, generator=torch.Generator().manual_seed(0))
        call = partial(fake_quantize, x, NEAREST, out=torch.empty_like(x))
        for path, limit in paths().items():
            with using(limit):
                spent = [
                    seconds(lambda call=call: [call() for _ in range(BATCH)])  # type: ignore[misc]
                    for _ in range(rounds + 1)
                ]
            found.append(Overhead(path=path, side=side, us=median(spent[1:]) / BATCH * 1e6))
    return found


def goals(timings: Sequence[Timing]) -> list[str]:
    """What was aimed at, beside what was measured."""
    lines = []
    for dtype in dict.fromkeys(t.dtype for t in timings):
        rows = [t for t in timings if t.dtype == dtype]
        peer = min((t for t in rows if t.path == PEER), key=lambda t: t.ratio, default=None)
        own = [t for t in rows if t.variant == PLAIN]
        for row in dict.fromkeys((own[0], own[-1])):
            goal = PYTORCH_GOAL if row.path == PYTORCH else NATIVE_GOAL
            lines.append(
                f"{row.path}, {dtype}: {row.ratio:.1f}x a copy (goal: at most {goal:.0f}x, "
                f"{'met' if row.ratio <= goal else 'missed'})"
            )
            if peer is not None:
                times = peer.ratio / row.ratio
                lines[-1] += (
                    f"; {times:.0f} times as fast as {peer.variant} "
                    f"(goal: {PEER_GOAL:.0f} times, {'met' if times >= PEER_GOAL else 'missed'})"
                )
    return lines


def markdown(report: Report) -> str:
    """The report as tables."""
    here = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    rounds = report.timings[0].rounds
    shape = f"{report.size} x {report.size}"
    lines = [f"Machine: {here}.", "", f"{shape}, ratio to a warm copy: median of {rounds} rounds"]
    lines[-1] += " (lowest to highest)."
    dtypes = list(dict.fromkeys(t.dtype for t in report.timings))
    lines += ["", "| path | variant |" + "".join(f" {d}, ms | x copy |" for d in dtypes)]
    lines += ["|---|---|" + "--:|--:|" * len(dtypes)]
    for key in dict.fromkeys((t.path, t.variant) for t in report.timings):
        cells = [
            f" {t.ms:.1f} | {t.ratio:.2f} ({t.lowest:.2f} to {t.highest:.2f}) |"
            for t in report.timings
            if (t.path, t.variant) == key
        ]
        lines.append(f"| {key[0]} | {key[1]} |" + "".join(cells))
    lines += ["", *(f"- {goal}" for goal in goals(report.timings))]
    if report.agreements:
        lines += ["", "| peer | version | dtype | equal to qprobe | within 2^-21 |"]
        lines += ["|---|---|---|--:|--:|"]
    lines += [
        f"| {a.peer} | {a.version} | {a.dtype} | {a.equal:.2%} | {a.close:.2%} |"
        for a in report.agreements
    ]
    lines += ["", *(f"- not timed: {name}: {why}" for name, why in report.absent.items())]
    lines += ["", "| path | tensor | us a call |", "|---|---|--:|"]
    lines += [f"| {o.path} | {o.side} x {o.side} | {o.us:.0f} |" for o in report.overheads]
    return "\n".join(lines)


def run(size: int, rounds: int, peers: Sequence[Peer], absent: dict[str, str]) -> Report:
    """Measure everything on a ``size`` x ``size`` tensor of normal numbers."""
    report = Report(size=size, machine=machine(), absent=absent)
    normal = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    for dtype in DTYPES:
        x = normal.to(dtype)
        report.agreements += agreements(x, peers)
        copy = partial(torch.empty_like(x).copy_, x)
        report.timings += measure(cases(x, peers), copy, rounds, dtype)
    report.overheads = overheads((64, 256), rounds * 10)
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="256 x 256, two rounds: does it run?")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--fp-quant", type=Path, metavar="CHECKOUT", help="time FP-Quant as well")
    given = parser.parse_args()
    torch.set_num_threads(1)
    peers, absent = load_peers(given.fp_quant)
    report = run(256 if given.quick else 4096, 2 if given.quick else 7, peers, absent)
    print(json.dumps(asdict(report), indent=2) if given.json else markdown(report))


if __name__ == "__main__":
    main()
