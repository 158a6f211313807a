"""Which five layers cost most in 4 bits: how many evaluations it takes, and who finds them.

    python benchmarks/sensitivity.py [--cases N] [--peers N] [--store FOLDER] [--json]
    python benchmarks/sensitivity.py --timing [--store FOLDER]    # eight cases anew, by part
    python benchmarks/sensitivity.py --quick                      # only that everything runs

The truth is the score recovered by each layer alone in high precision, with a paired bootstrap
interval over patients, on all validation data. Ours is `qprobe.analyzers.dequantization`; beside it
stand the methods of other tools on the same models and data, written down again here: every layer
restored and evaluated (AIMET's per-layer analysis), the divergence of the output with one layer
quantized, and the squared gradient times the squared output error (ModelOpt's two scores).

A pass is one evaluation of the model in high precision, CPU time of this thread, median over a
model's cases; what a method sets up counts. A top five is the same when layers that differ can be
matched so that each one's true recovery is inside the other's interval; strictly the same when none
differ. Random states are fixed: only times change from run to run. With a store, trained models and
what each method said of each case are kept there: a run that was interrupted goes on, and a method
that changed is asked again once its files are gone.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import permutations
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from interleaved import machine, seconds
from sensitivity_zoo import STEPS, Case, cases, keep_trained, subject
from torch import Tensor

from qprobe.analyzers.base import Subject
from qprobe.analyzers.dequantization import EXHAUSTIVE, Bounds, Dequantization, Mode, Search
from qprobe.analyzers.dequantization.emit import Measured, largest
from qprobe.analyzers.dequantization.layers import quantized_layers
from qprobe.inference import Interval
from qprobe.quant import restored

TOP = 5
ALONE = {"operands": False, "agreement": 0, "cumulative": 0, "sensitivity": False, "gradients": 0}
Truth = Mapping[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One method on one case."""

    case: str
    method: str
    layers: int
    #: CPU seconds, and of one pass on this case.
    spent: float
    one_pass: float
    same: bool
    strictly: bool
    #: Whether the model lost anything beyond its interval.
    loss: bool
    #: Passes by part, as ours counts them.
    parts: Mapping[str, float] = field(default_factory=dict)


def measured(one: Subject, search: Search, bounds: Bounds) -> Measured:
    """What our analyzer records."""
    return Measured(list(Dequantization(search, bounds).measure(one)))


def evaluated(one: Subject) -> list[str]:
    """A plain evaluation of every layer restored, one after the other: the truth, slowly."""
    with torch.no_grad():
        for path in quantized_layers(one.model):
            with restored(one.model, [path]):
                for batch in one.batches():
                    one.score.of(one.forward(one.model, batch), batch)
    return []


def plain_pass(one: Subject) -> None:
    """The unit."""
    with torch.no_grad(), restored(one.model, list(quantized_layers(one.model))):
        for batch in one.batches():
            one.score.of(one.forward(one.model, batch), batch)


def divergence(one: Subject) -> dict[str, float]:
    """KL divergence of the output with one layer quantized from that with none."""
    paths = list(quantized_layers(one.model))
    found = dict.fromkeys(paths, 0.0)
    with torch.no_grad():
        for batch in one.batches():
            with restored(one.model, paths):
                target = _distribution(one.forward(one.model, batch))
            for path in paths:
                with restored(one.model, [other for other in paths if other != path]):
                    output = _distribution(one.forward(one.model, batch))
                found[path] += float(F.kl_div(output, target, log_target=True, reduction="sum"))
    return found


def _distribution(logits: Tensor) -> Tensor:
    """Log-probabilities of background and foreground."""
    return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)])


def gradient(one: Subject) -> dict[str, float]:
    """Σ g²·Δy² at each layer's output, g and the rest of the model in high precision."""
    layers = quantized_layers(one.model)
    setups = {path: layer.module.setup for path, layer in layers.items()}
    kinds = {path: type(layer.module) for path, layer in layers.items()}
    found = dict.fromkeys(layers, 0.0)

    def watch(path: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            plain = type(module)
            with torch.no_grad():
                module.__class__, module.setup = kinds[path], setups[path]
                change = kinds[path].forward(module, *args) - output
                module.__class__ = plain
                del module.setup

            def add(g: Tensor) -> None:
                found[path] += float((g.square() * change.square()).sum())

            output.register_hook(add)

        return hook

    with restored(one.model, list(layers)), ExitStack() as stack:
        for path in layers:
            handle = one.model.get_submodule(path).register_forward_hook(watch(path))
            stack.callback(handle.remove)
        for batch in one.batches():
            one.loss(one.forward(one.model, batch), batch).sum().backward()
    one.model.zero_grad()
    return found


def best(scores: Mapping[str, float]) -> list[str]:
    return sorted(scores, key=lambda path: -scores[path])[:TOP]


def agree(found: list[str], truth: Truth) -> tuple[bool, bool]:
    """The same up to exchangeable layers, and strictly."""
    right = set(largest(truth, TOP))
    extra, missing = [p for p in found if p not in right], sorted(right - set(found))
    if len(extra) != len(missing):
        return False, False
    same = any(
        all(_exchangeable(truth[a], truth[b]) for a, b in zip(extra, order, strict=True))
        for order in permutations(missing)
    )
    return same, not missing


def _exchangeable(one: Interval, other: Interval) -> bool:
    return not (one.excludes(other.estimate) or other.excludes(one.estimate))


TRUTH = "ours, exhaustive"
#: What is compared, by name. Each says which layers cost most, or measures.
METHODS: Mapping[str, Callable[[Subject], list[str] | Measured]] = {
    TRUTH: lambda one: measured(one, replace(EXHAUSTIVE, **ALONE), Bounds()),
    "ours": lambda one: measured(one, Search(**ALONE), Bounds()),
    "ours, screen only": lambda one: measured(
        one, Search(mode=Mode.SCREEN, screened=1.0, **ALONE), Bounds()
    ),
    "restore and evaluate each (AIMET)": evaluated,
    "divergence (ModelOpt)": lambda one: best(divergence(one)),
    "gradient (ModelOpt)": lambda one: best(gradient(one)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one method said of one case, and what it took."""

    layers: int
    #: CPU seconds, and of one pass on this case.
    spent: float
    one_pass: float
    #: The five layers; none by a method that is only timed.
    named: list[str]
    #: Recoveries that were measured, and whether the model loses beyond its interval.
    exact: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    loss: bool = False
    #: Passes by part, as ours counts them.
    parts: Mapping[str, float] = field(default_factory=dict)


class Bench:
    """One case, made and timed only where a method has no stored answer."""

    def __init__(self, case: Case, steps: int, store: Path | None) -> None:
        self.case, self.steps, self.store = case, steps, store

    @cached_property
    def subject(self) -> Subject:
        return subject(self.case, self.steps)

    @cached_property
    def unit(self) -> float:
        """CPU seconds of one pass."""
        plain_pass(self.subject)
        return median(seconds(lambda: plain_pass(self.subject)) for _ in range(3))

    def answer(self, method: str) -> Answer:
        path = None
        if self.store is not None:
            path = self.store / f"{self.case} {self.steps} {method}.json".replace(" ", "-")
            if path.is_file():
                return Answer(**json.loads(path.read_text()))
        found = self._ask(method)
        if path is not None:
            path.write_text(json.dumps(asdict(found)))
        return found

    def _ask(self, method: str) -> Answer:
        one, unit, said = self.subject, self.unit, []
        spent = seconds(lambda: said.append(METHODS[method](one)))
        about = {"layers": len(quantized_layers(one.model)), "spent": spent, "one_pass": unit}
        found = said[0]
        if not isinstance(found, Measured):
            return Answer(**about, named=found)
        exact, gap = found.intervals("recovery"), found.interval("gap")
        passes = [key for key in sorted(found.keys()) if key.startswith("passes.")]
        return Answer(
            **about,
            named=largest(exact, TOP) if exact else best(found.values("screen")),
            exact={path: asdict(interval) for path, interval in exact.items()},
            loss=gap is not None and gap.low > 0,
            parts={key.removeprefix("passes."): found.value(key) or 0.0 for key in passes},
        )


def run(bench: Bench, peers: bool) -> list[Result]:
    """All methods on one case; those of others only where asked."""
    first = bench.answer(TRUTH)
    truth = {path: Interval(**found) for path, found in first.exact.items()}
    results = []
    for method in METHODS:
        if not method.startswith("ours") and not peers:
            continue
        answer = bench.answer(method)
        # The slow evaluation gives the truth itself.
        same, strictly = agree(answer.named or first.named, truth)
        results.append(
            Result(
                case=str(bench.case),
                method=method,
                layers=answer.layers,
                spent=answer.spent,
                one_pass=answer.one_pass,
                same=same,
                strictly=strictly,
                loss=first.loss,
                parts=answer.parts,
            )
        )
    return results


def table(results: list[Result]) -> list[str]:
    by_method: dict[str, list[Result]] = defaultdict(list)
    for one in results:
        by_method[one.method].append(one)
    lines = [
        "| method | cases | same top 5 | strictly | same, where there is a loss "
        "| passes a layer (lowest to highest) | passes |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for method, rows in by_method.items():
        lost = [row for row in rows if row.loss]
        passes = [row.spent / row.one_pass for row in rows]
        per = [p / row.layers for p, row in zip(passes, rows, strict=True)]
        same = f"{sum(r.same for r in rows) / len(rows):.0%}"
        strictly = f"{sum(r.strictly for r in rows) / len(rows):.0%}"
        where = f"{sum(r.same for r in lost)} of {len(lost)}"
        spread = f"{median(per):.2f} ({min(per):.2f} to {max(per):.2f})"
        cells = [method, str(len(rows)), same, strictly, where, spread, f"{median(passes):.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def table_of_parts(results: list[Result]) -> list[str]:
    """Passes of a whole model by part, median over cases, and of all of them together."""
    names = list(dict.fromkeys(name for one in results for name in sorted(one.parts)))
    lines = [f"| method | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    for method in dict.fromkeys(one.method for one in results if one.parts):
        rows = [one.parts for one in results if one.method == method]
        cells = [f"{median(row.get(name, 0.0) for row in rows):.2f}" for name in names]
        lines.append(f"| {' | '.join([method, *cells])} |")
    return lines


def asked(arguments: argparse.Namespace) -> Sequence[Case]:
    """The cases to run; those that are timed are the natural ones of two recipes."""
    if arguments.timing:
        return [case for case in cases(12) if case.recipe != "int4-channel-token"]
    return cases(1 if arguments.quick else arguments.cases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only show that everything runs")
    parser.add_argument("--cases", type=int, default=36)
    parser.add_argument("--peers", type=int, default=10, help="cases for methods of others too")
    parser.add_argument("--store", type=Path, help="folder of trained models and finished cases")
    parser.add_argument("--timing", action="store_true", help="time eight cases anew, by part")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    steps = 2 if arguments.quick else STEPS
    chosen = asked(arguments)
    results: list[Result] = []
    store = arguments.store
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
        keep_trained(store)
    for number, case in enumerate(chosen):
        bench = Bench(case, steps, None if arguments.timing else store)
        results += run(bench, peers=number < arguments.peers and not arguments.timing)
        if not arguments.json:
            print(f"{case}: {', '.join(_short(r) for r in results if r.case == str(case))}")
    if arguments.json:
        print(json.dumps({"machine": machine(), "results": [asdict(r) for r in results]}))
        return
    print("\nMachine: " + ", ".join(f"{k} {v}" for k, v in machine().items()) + ".\n")
    print("\n".join([*table(results), "", *table_of_parts(results)]))


def _short(one: Result) -> str:
    sign = "=" if one.strictly else "~" if one.same else "≠"
    return f"{one.method} {sign} {one.spent / one.one_pass / one.layers:.2f}"


if __name__ == "__main__":
    main()
