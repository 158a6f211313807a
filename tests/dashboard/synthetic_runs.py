"""Run files that look like real ones, written in milliseconds and with a known failing layer."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qprobe.records import (
    Array,
    Batch,
    Column,
    Finding,
    Metric,
    RunInfo,
    RunWriter,
    Sample,
    create,
)

MODULES = ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")
#: The layer that every full run breaks at.
FAILING = "blocks.2.attn.qkv"
HOSTILE = "<img src=x onerror=alert(1)>&\"'`${}日本語\u202e" + "x" * 2000
PATIENTS = tuple(f"p{number:04d}" for number in range(8))
METRICS = {
    ("input", "moments"): (
        "mean", "std", "absmax", "kurtosis", "channel_kurtosis_median", "channel_kurtosis_p90",
        "channel_kurtosis_p99", "channel_kurtosis_max", "token_kurtosis_median",
        "token_kurtosis_p99", "token_kurtosis_max",
    ),
    ("input", "operand_error"): (
        "fprop.x.sqnr_db", "fprop.x.underflow", "fprop.x.saturation", "fprop.w.sqnr_db",
        "dgrad.dy.sqnr_db", "dgrad.dy.underflow", "wgrad.dy.sqnr_db", "fprop.x.n",
    ),
    ("input", "four_bit"): ("nvfp4.sqnr_db", "int4.sqnr_db"),
    ("grad_output", "gradient_fidelity"): ("wgrad.cosine", "wgrad.norm_ratio"),
    ("input", "histogram"): ("n", "zero", "nan", "infinite"),
}  # fmt: skip


def layers(blocks: int = 6) -> list[str]:
    return [f"blocks.{block}.{module}" for block in range(blocks) for module in MODULES]


def config(recipe: str, seed: int, **changes: Any) -> dict[str, Any]:
    return {
        "arch": "vit", "size": "tiny", "data": "phantom", "image": 64, "recipe": recipe,
        "seed": seed, "fold": None, "steps": 100, "epochs": 10, "hash": f"{recipe}-{seed}",
        **changes,
    }  # fmt: skip


def training(
    path: Path, recipe: str = "nvfp4", seed: int = 0, *, quality: float = 0.8, full: bool = True,
    **changes: Any,
) -> Path:  # fmt: skip
    """A finished training; a full one has records, arrays, samples and findings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = RunInfo(config=config(recipe, seed, **changes), environment={}, recipe=recipe)
    random = np.random.default_rng(seed)
    with create(path, info) as writer:
        _losses(writer, random)
        auprc = quality + 0.004 * random.standard_normal()
        writer.metrics(
            Metric(step=100, epoch=10, split=split, name=name, value=value)
            for split in ("test", "validation")
            for name, value in (("auprc", auprc), ("dice", auprc - 0.05), ("loss", 1 - auprc))
        )
        if full:
            measured(writer, layers(), range(0, 101, 10), worse=recipe != "bf16")
            writer.arrays(histogram_arrays(layers(), random))
            attention(writer, 6)
            branches(writer)
            predictions(writer, quality, random)
            if recipe != "bf16":
                writer.findings(findings())
    return path


def _losses(writer: RunWriter, random: np.random.Generator) -> None:
    layout = writer.layout([Column("", "", "training", key) for key in ("loss", "lr", "grad_norm")])
    for step in range(1, 101):
        loss = 1.5 / step**0.3 + 0.02 * random.standard_normal()
        values = np.array([loss, 1e-3, 1 + random.random()])
        writer.records(step, Batch(layout=layout, values=values))


def measured(writer: RunWriter, sites: Sequence[str], steps: range, *, worse: bool = True) -> None:
    """Every metric of every layer; one layer stands out, one is NaN, one was not measured."""
    columns = [
        Column(site, role, probe, key)
        for site in sites
        for (role, probe), keys in METRICS.items()
        for key in keys
        if not (site == sites[-1] and probe == "gradient_fidelity")
    ]
    layout = writer.layout(columns)
    random = np.random.default_rng(7)
    basis = np.array([_typical(column) * (1 + 0.1 * random.random()) for column in columns])
    if worse:
        stand_out = np.array([column.site == FAILING for column in columns])
        higher = np.array([_falls(column.key) for column in columns])
        basis = np.where(stand_out & ~higher, basis * 4, basis)
        basis = np.where(stand_out & higher, basis * 0.4, basis)
    broken = np.array([column.site == sites[1] and column.key == "kurtosis" for column in columns])
    for step in steps:
        drift = 1 + 0.002 * step + 0.02 * random.standard_normal(len(columns))
        writer.records(step, Batch(layout=layout, values=np.where(broken, np.nan, basis * drift)))


def _falls(key: str) -> bool:
    return "sqnr" in key or key.endswith("cosine")


def _typical(column: Column) -> float:
    if "kurtosis" in column.key:
        return 4.0 + 20.0 * ("max" in column.key)
    if "sqnr" in column.key:
        return 18.0
    known = {"mean": 0.01, "std": 1.0, "absmax": 6.0, "n": 4000.0, "zero": 12.0, "nan": 0.0,
             "infinite": 0.0, "wgrad.cosine": 0.97, "wgrad.norm_ratio": 1.0}  # fmt: skip
    return known.get(column.key, 0.02)


def histogram_arrays(sites: Sequence[str], random: np.random.Generator) -> Iterator[Array]:
    """Magnitudes of normal values, those of the failing layer with a heavy tail."""
    for site in sites:
        values = random.standard_normal(4000)
        if site == FAILING:
            values[::100] *= 40
        bins = np.clip(np.floor(np.log2(np.abs(values))) + 40, 0, 63).astype(int)
        counts = np.bincount(bins, minlength=64).astype(np.int64)
        for step in (50, 100):
            yield Array(
                step=step, site=site, role="input", probe="histogram", key="magnitudes",
                data=counts,
            )  # fmt: skip


def attention(writer: RunWriter, blocks: int) -> None:
    """Logits and softmax of four heads a block."""
    columns = [
        Column(f"blocks.{block}.attn.product", role, probe, f"head{head}.{key}")
        for block in range(blocks)
        for head in range(4)
        for role, probe, keys in (
            ("attn_logits", "attention_logits", ("snr_qk_db", "error_qk_nats")),
            ("attn_probs", "softmax_levels", ("levels_ratio", "flip_rate", "entropy_change_nats")),
        )
        for key in keys
    ]
    layout = writer.layout(columns)
    random = np.random.default_rng(11)
    typical = {"snr_qk_db": 20.0, "error_qk_nats": 0.05, "levels_ratio": 0.6, "flip_rate": 0.02}
    for step in range(0, 101, 25):
        values = [
            typical.get(column.key.partition(".")[2], 0.01) * (1 + 0.3 * random.random())
            for column in columns
        ]
        writer.records(step, Batch(layout=layout, values=np.array(values)))
    attention_maps(writer, random)


def attention_maps(writer: RunWriter, random: np.random.Generator) -> None:
    """One head of the first attention, in which the last keys are hidden."""
    layouts = [Column("blocks.0.attn.product", role, "attention_maps", "n")
               for role in ("attn_logits", "attn_probs")]  # fmt: skip
    layout = writer.layout(layouts)
    logits = random.standard_normal((16, 16)).astype(np.float16)
    logits[:, 14:] = -np.inf
    probabilities = np.exp(logits.astype(np.float32))
    probabilities /= probabilities.sum(-1, keepdims=True)
    for step in (50, 100):
        writer.records(step, Batch(layout=layout, values=np.full(2, 256.0)))
        for column, values in zip(layouts, (logits, probabilities), strict=True):
            change = np.where(np.isfinite(values), 0.1 * values, 0).astype(np.float16)
            writer.arrays(
                Array(step=step, site=column.site, role=column.role, probe=column.probe,
                      key=f"head2.{name}", data=data.astype(np.float16))
                for name, data in (("reference", values), ("change", change))
            )  # fmt: skip


def branches(writer: RunWriter) -> None:
    """Gradient energy of two branches at two fusion nodes, one of which starves."""
    columns = [
        Column(f"decoder.{node}/cat.0", "output", "branch_energy", key)
        for node in range(2)
        for key in ("branch0.energy", "branch1.energy", "imbalance")
    ]
    layout = writer.layout(columns)
    for step in range(0, 101, 5):
        starved = np.exp(-step / 20)
        values = np.array([1.0, 0.9, 0.1, 1.0, starved, step / 20])
        writer.records(step, Batch(layout=layout, values=values))


def predictions(writer: RunWriter, quality: float, random: np.random.Generator) -> None:
    """Logit histograms of 24 samples of 8 patients, per-sample scores and three examples."""
    samples = [f"{PATIENTS[number // 3]}/s{number % 3:02d}" for number in range(24)]
    apart = 6 * (quality - 0.4)
    counts = np.zeros((24, 2, 1024), dtype=np.int32)
    for number in range(24):
        for side, (centre, size) in enumerate(((-apart, 900), (apart * 0.7, 120))):
            logits = centre + 2.2 * random.standard_normal(size)
            bins = np.clip((logits + 16) * 32, 0, 1023).astype(int)
            counts[number, side] = np.bincount(bins, minlength=1024)
    writer.arrays([_array("predictions", "histograms.test.0", counts)])
    writer.samples(
        Sample(
            step=100, epoch=10, split="test", sample=sample, patient=sample[:5], name="dice",
            value=float(np.clip(quality + 0.05 * random.standard_normal(), 0, 1)),
        )
        for sample in samples
    )  # fmt: skip
    for sample in samples[:3]:
        writer.arrays(example(sample, quality, random))


def example(sample: str, quality: float, random: np.random.Generator) -> Iterator[Array]:
    rows, columns = np.mgrid[-1:1:64j, -1:1:64j]
    head = (rows**2 + columns**2 < 0.8).astype(float)
    place = random.uniform(-0.4, 0.4, 2)
    lesion = (rows - place[0]) ** 2 + (columns - place[1]) ** 2 < 0.05
    image = head * 0.5 + lesion * 0.4 + 0.05 * random.standard_normal((64, 64))
    logits = np.where(lesion, 3.0, -3.0) + (1.2 - quality) * 4 * random.standard_normal((64, 64))
    yield _array("examples", f"{sample}.image", np.stack([image] * 3).astype(np.float16))
    yield _array("examples", f"{sample}.mask", lesion[None].astype(np.uint8))
    yield _array("examples", f"{sample}.logits", logits[None].astype(np.float16))


def _array(probe: str, key: str, data: NDArray[Any]) -> Array:
    return Array(step=100, site="", role="", probe=probe, key=key, data=data)


def findings() -> list[Finding]:
    return [
        finding(),
        finding(
            analyzer="attention",
            claim="head 2 of blocks.3.attn sees one logit for three",
            cause="logit_offset",
            severity="warn",
            sites=("blocks.3.attn",),
            roles=("attn_logits",),
        ),
    ]


def finding(**changes: Any) -> Finding:
    fields: dict[str, Any] = {
        "analyzer": "outliers",
        "claim": f"{FAILING} loses its small channels to one loud one",
        "cause": "channel_outlier",
        "severity": "critical",
        "sites": (FAILING,),
        "roles": ("input",),
        "effect": 0.062,
        "unit": "AUPRC",
        "low": 0.041,
        "high": 0.083,
        "n": 24,
        "control": "the same weights in bf16",
        "remedy": "give every channel its own scale, or keep this layer in bf16",
        "reference": "docs/concepts/moments.md",
    }
    return Finding(**{**fields, **changes})


def analysis(path: Path, source: str) -> Path:
    """Recovery and curvature of every layer, made from a checkpoint of the run ``source``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"kind": "analysis", "score": "auprc", "recipe": "nvfp4"}
    info = RunInfo(config=about, environment={}, recipe="nvfp4", source=f"{'0' * 64} {source}")
    random = np.random.default_rng(3)
    with create(path, info) as writer:
        writer.record(0, Column("dequantization", "", "analysis", "done"), 1.0)
        for key, value in (("score.high_precision", 0.83), ("score.quantized", 0.73)):
            _estimate(writer, "", key, value)
        _estimate(writer, "", "gap", 0.1)
        for site in layers():
            gain = 0.055 if site == FAILING else 0.002 + 0.002 * random.random()
            _estimate(writer, site, "recovery", gain)
            _estimate(writer, site, "sensitivity", 0.9 * gain)
            writer.record(0, Column(site, "weight", "curvature", "trace"), 10 * random.random())
            writer.record(0, Column(site, "weight", "curvature", "trace.stderr"), 0.5)
        _estimate(writer, FAILING, "recovery", 0.05, role="input")
        _sets(writer)
        for key, value in (("trace", 120.0), ("trace.stderr", 9.0), ("eigenvalue0", 14.0)):
            writer.record(0, Column("", "", "curvature", key), value)
        x = np.linspace(-1, 15, 200)
        density = np.stack([x, np.exp(-(x**2))])
        writer.arrays([Array(step=0, site="", role="", probe="curvature", key="density",
                             data=density)])  # fmt: skip
        writer.findings([finding(analyzer="dequantization", claim=f"keep {FAILING} in bf16")])
    return path


def _sets(writer: RunWriter) -> None:
    """Kinds and pairs of layers, and a set that grows."""
    for kind, gain in (("linear 16×16", 0.06), ("conv2d 3×3", 0.01)):
        _estimate(writer, kind, "kind.recovery", gain)
    _estimate(writer, f"{FAILING} & head", "interaction", 0.01)
    for number, site in enumerate((FAILING, *layers()[:3])):
        _estimate(writer, site, "cumulative", 0.055 + 0.004 * number, step=number + 1)
        column = Column(site, "", "dequantization", "cumulative.additive")
        writer.record(number + 1, column, 0.055 + 0.005 * number)


def _estimate(
    writer: RunWriter, site: str, key: str, value: float, *, role: str = "", step: int = 0
) -> None:
    parts = (("", value), (".low", value - 0.005), (".high", value + 0.006), (".n", 24.0))
    for end, number in parts:
        writer.record(step, Column(site, role, "dequantization", key + end), number)


def folder(root: Path) -> Path:
    """What a person has after a sweep and an analysis."""
    for recipe, quality in (("bf16", 0.83), ("nvfp4", 0.80), ("int4-tensor", 0.70)):
        for seed in range(3):
            training(
                root / f"vit-{recipe}-s{seed}" / "run.qprobe", recipe, seed, quality=quality,
                full=seed == 0,
            )  # fmt: skip
    from qprobe import records

    with records.open(root / "vit-nvfp4-s0" / "run.qprobe") as run:
        source = run.meta.run
    analysis(root / "vit-nvfp4-s0" / "analysis.qprobe", source)
    return root


def corrupt(path: Path) -> Path:
    """The first half of a run."""
    whole = training(path, full=True).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def hostile(path: Path) -> Path:
    """Names that are markup, 2,000 characters long, and not of this alphabet."""
    info = RunInfo(config=config("<b>nvfp4</b>", 0, arch=HOSTILE[:60]), environment={},
                   recipe="<b>nvfp4</b>")  # fmt: skip
    with create(path, info) as writer:
        measured(writer, [HOSTILE, "a.1.b", "a.2.b"], range(2))
        writer.metrics([Metric(step=1, split="test", name="auprc", value=0.5)])
        writer.findings([finding(sites=(HOSTILE,), claim=HOSTILE, remedy=HOSTILE)])
        _losses(writer, np.random.default_rng(0))
    return path


def wide(path: Path, sites: int = 600) -> Path:
    """600 layers × 12 metrics at one step."""
    columns = [
        Column(f"blocks.{site // 10}.part{site % 10}", "input", "moments", f"k{key}")
        for site in range(sites)
        for key in range(12)
    ]
    random = np.random.default_rng(5)
    with create(path, RunInfo(config=config("nvfp4", 0), environment={}, recipe="nvfp4")) as run:
        layout = run.layout(columns)
        run.records(0, Batch(layout=layout, values=random.lognormal(size=len(columns))))
    return path


def many(root: Path, count: int = 1000) -> Path:
    """The same small run under many names."""
    first = training(root / "r0000.qprobe", full=False)
    data = first.read_bytes()
    for number in range(1, count):
        (root / f"r{number:04d}.qprobe").write_bytes(data)
    return root
