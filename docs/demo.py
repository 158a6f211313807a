"""Train a small segmentation model, squeeze it into four bits, and find the layer that breaks.

Run by `make demo`. Everything here is public API; the same steps work on any model.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import qprobe
from qprobe.engine import Workbench, evaluate, reopen
from qprobe.records import Batch, Column, RunInfo, create

#: What four bits would do to each tensor, and how it is distributed, as the training goes on.
PROBES = ("--probes", "four_bit,moments", "--budget", "10%")
#: What a short training needs that a long one does not: a warm-up and a schedule that ends.
SETTINGS = (
    *("--arch", "cnn", "--size", "tiny", "--data", "phantom", "--batch", "16"),
    *("--lr", "2e-3", "--set", "schedule=cosine", "--set", "warmup=20", "--set", "clip=1.0"),
    *("--set", "augment=false", "--model-option", "dropout=0.1"),
    *("--set", "validation=16", "--set", "test=16"),
)
RECIPES = ("bf16", "nvfp4", "int8-tensor", "int4-tensor", "int4-channel-token")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--out", type=Path, default=Path("runs/demo"))
    chosen = options.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 100)
    began = time.perf_counter()

    console.rule("1. Train a CNN in full precision, with probes that watch every layer")
    train(chosen.out, chosen.steps)
    console.print("[bold]What they saw last[/bold], the largest error in 4 bits first:")
    qprobe_("watch", str(chosen.out), "--by", "int4", "--rows", "5")
    bench = reopen(chosen.out / "best.pt")

    console.rule("2. The same weights under other recipes, every layer quantized")
    scores = {recipe: score(bench, recipe) for recipe in RECIPES}
    console.print(table_of_recipes(scores))

    console.rule("3. int4-tensor again, one layer at a time back in full precision")
    recovered = {layer: score(bench, "int4-tensor", layer) for layer in layers(bench)}
    console.print(table_of_layers(recovered, scores["bf16"], scores["int4-tensor"]))
    console.print(finding(recovered, scores))
    keep(chosen.out, {layer: value - scores["int4-tensor"] for layer, value in recovered.items()})
    seconds = time.perf_counter() - began
    console.print(f"[dim]{seconds:.0f} s. The run is in {chosen.out}/run.qprobe.[/dim]")
    console.print(
        f"Ask:   qprobe analyze {chosen.out}/best.pt --recipe int4-tensor --layers all --verify\n"
        f"Look:  {where_to_look(chosen.out, worst(recovered))}",
        soft_wrap=True,
        highlight=False,
    )


def train(folder: Path, steps: int) -> None:
    """What `qprobe train` does from a shell; a finished training is not run again."""
    if (folder / "run.qprobe").exists():
        arguments = ["--resume", str(folder)]
    else:
        arguments = [*SETTINGS, *PROBES, "--steps", str(steps), "--out", str(folder)]
    qprobe_("train", *arguments)


def qprobe_(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "qprobe", *words], check=True)


def score(bench: Workbench, recipe: str, restored: str | None = None) -> float:
    """Average precision on validation data under a recipe, one layer restored or none."""
    qprobe.convert(bench.model, recipe, layers="all")
    if restored is not None:
        qprobe.override(bench.model, {restored: "bf16"})
    evaluation = evaluate(bench.model, bench.validation, bench.device, show=False)
    return evaluation.pooled()["auprc"] or 0.0


def layers(bench: Workbench) -> tuple[str, ...]:
    return qprobe.convert(bench.model, "int4-tensor", layers="all").converted


def table_of_recipes(scores: dict[str, float]) -> Table:
    table = Table("recipe", "AUPRC", "against bf16", box=None, pad_edge=False)
    for recipe, value in scores.items():
        table.add_row(recipe, f"{value:.3f}", f"{value - scores['bf16']:+.3f}")
    return table


def table_of_layers(recovered: dict[str, float], best: float, broken: float) -> Table:
    table = Table(
        "restored layer", "AUPRC", "share of the loss it brings back", box=None, pad_edge=False
    )
    for layer, value in sorted(recovered.items(), key=lambda item: -item[1]):
        share = (value - broken) / (best - broken) if best > broken else 0.0
        table.add_row(layer, f"{value:.3f}", f"{share:>5.0%} {'█' * max(0, round(30 * share))}")
    return table


def keep(folder: Path, gains: dict[str, float]) -> None:
    """What each layer alone brings back, in a run beside the training: the dashboard joins them."""
    path = folder / "restored.qprobe"
    path.unlink(missing_ok=True)
    with qprobe.open(folder / "run.qprobe") as training:
        source = training.meta.run
    info = RunInfo(config={}, environment={}, recipe="int4-tensor", source=source)
    with create(path, info) as run:
        columns = [Column(layer, "", "dequantization", "recovery") for layer in gains]
        run.records(0, Batch(layout=run.layout(columns), values=np.array(list(gains.values()))))


def worst(recovered: dict[str, float]) -> str:
    """The layer that brings back most alone."""
    return max(recovered, key=lambda name: recovered[name])


def where_to_look(out: Path, layer: str) -> str:
    """The command that serves the run, and the address of the layer in it."""
    command = "make dashboard" if out.parent == Path("runs") else f"qprobe dashboard {out.parent}"
    page = f"http://127.0.0.1:8050/layer?{urlencode({'run': out.name, 'layer': layer})}"
    return f"{command}, then {page} (it names its port where 8050 is taken)"


def finding(recovered: dict[str, float], scores: dict[str, float]) -> str:
    lost = scores["bf16"] - scores["int4-tensor"]
    if lost < 0.02:
        return f"No problem found: int4-tensor costs {lost:.3f} AUPRC."
    layer = worst(recovered)
    share = (recovered[layer] - scores["int4-tensor"]) / lost
    saved = scores["int4-channel-token"]
    return (
        f"[bold]Finding.[/bold] One scale per tensor in 4 bits costs {lost:.3f} AUPRC, and "
        f"[bold]{layer}[/bold] alone is {share:.0%} of it. Keep that layer in bf16, or give every "
        f"channel its own scale (int4-channel-token: {saved:.3f}). NVFP4 loses "
        f"{scores['bf16'] - scores['nvfp4']:.3f}: its 16-element blocks need no such care."
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
