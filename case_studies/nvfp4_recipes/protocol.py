"""What every training of the study has in common, and what an architecture adds.

At scale ``cpu`` it is a short protocol on small images: a warm-up, a cosine schedule that ends,
clipped gradients, little dropout or none, and augmentation for transformers only, which need it:
models of some ten thousand parameters are trained in half a minute. At scale ``gpu`` images are
larger, the batch and the optimizers are the paper's, and only the number of steps is shortened.
"""

from typing import Any

BASELINE = "bf16"
#: The paper's recipes in the order of its Table 2.
QUANTIZED = (
    "nvfp4",
    "nvfp4-fwd",
    "nvfp4-fwd-rht",
    "nvfp4-chain",
    "nvfp4-sr",
    "nvfp4-2d-rht",
    "nvfp4-2d-rht-sr",
)
RECIPES = (BASELINE, *QUANTIZED)
#: Those whose gradients are exact, so that there is nothing to see of them.
FORWARD_ONLY = ("nvfp4-fwd", "nvfp4-fwd-rht")
ARCHITECTURES = ("cnn", "vit", "swin")

#: Seconds of one core per step and what a recipe multiplies them with, for estimates only.
_STEP_S = {"cnn-tiny": 0.075, "cnn-500k": 0.18, "vit-tiny": 0.055, "swin-tiny": 0.05}
_FACTOR = {"bf16": 1.0, "nvfp4-2d-rht": 1.4, "nvfp4-2d-rht-sr": 1.4}

_SHORT = {
    "data": "phantom",
    "image": 64,
    "batch": 16,
    "schedule": "cosine",
    "warmup": 20,
    "clip": 1.0,
    "augment": False,
    "validation": 16.0,
    "test": 16.0,
    "precision": "fp32",
    "device": "cpu",
    "patience": 1000,
}
_TRANSFORMER = {
    "lr": 4e-3,
    "patch": 8,
    "augment": True,
    "model": {"dropout": 0.0, "drop_path": 0.0},
}
_SHORT_OF = {
    "cnn": {"lr": 2e-3, "model": {"dropout": 0.1}},
    "vit": _TRANSFORMER,
    "swin": _TRANSFORMER,
}
_STEPS = {"cnn": 180, "vit": 300, "swin": 300}

_LONG = {
    "data": "phantom",
    "image": 128,
    "batch": 32,
    "epochs": 1000,
    "schedule": "cosine",
    "warmup": 100,
    "validation": 0.1,
    "test": 0.1,
    "device": "cuda",
    "patience": 1000,
}
_LONG_STEPS = 3000

#: Looks of the probes: the first step and every fiftieth after it.
EVERY = 50


def settings(scale: str, arch: str, size: str, recipe: str, seed: int) -> dict[str, Any]:
    """The settings of one training, probes included."""
    if scale == "gpu":
        config = {**_LONG, "steps": _LONG_STEPS}
    else:
        config = {**_SHORT, **_SHORT_OF[arch], "epochs": 1000, "steps": _STEPS[arch]}
    config |= {"arch": arch, "size": size, "recipe": recipe, "seed": seed}
    return {"config": config, "probes": list(probes(arch, recipe)), "every": EVERY}


def probes(arch: str, recipe: str) -> tuple[str, ...]:
    """What watches a training: what four bits would do, and what the recipe does."""
    if recipe == BASELINE:
        return ("four_bit",)
    backward = () if recipe in FORWARD_ONLY else ("gradient_fidelity",)
    attention = () if arch == "cnn" else ("attention_logits",)
    return ("four_bit", "output_error", *backward, *attention)


def estimate_s(scale: str, arch: str, size: str, recipe: str) -> float:
    """Seconds that a training is thought to take."""
    if scale == "gpu":
        return {"500k": 120.0, "4m": 300.0}[size]
    return _STEPS[arch] * _STEP_S[f"{arch}-{size}"] * _FACTOR.get(recipe, 1.3) + 4.0
