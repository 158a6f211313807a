"""Models that are trained before defects are planted: ours, MONAI's and Hugging Face's.

What a family needs beside qprobe is looked for and never installed; one that is not there is left
out, and the report says so.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import diagnosis_tokens as tokens
import torch
from torch import Tensor, nn

from qprobe.engine import Schedule, TrainConfig, reopen, train
from qprobe.engine.config import Options
from qprobe.engine.losses import bce_tversky_per_image
from qprobe.quant import NVFP4, Gemm, QuantRecipe, QuantSpec, Rounding

Batch = tuple[Tensor, Tensor]
_RTN = QuantSpec(format=NVFP4)
_SR = QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC)
WITH_ATTENTION = QuantRecipe(
    name="nvfp4-sr-attention",
    fprop=Gemm(a=_RTN, b=_RTN),
    dgrad=Gemm(a=_SR, b=_RTN),
    wgrad=Gemm(a=_SR, b=_RTN),
    attention=Gemm(a=_RTN, b=_RTN),
    summary="nvfp4-sr with the products of attention as well",
    reference="this benchmark",
)
#: One recipe in blocks with stochastic rounding, one of integers. Products inside attention are
#: modules in our models only.
_OURS: tuple[str | QuantRecipe, ...] = (WITH_ATTENTION, "int4-channel-token")
_PLAIN: tuple[str | QuantRecipe, ...] = ("nvfp4-sr", "int4-channel-token")
#: Samples that are evaluated, and how many at once.
SAMPLES, BATCH = 64, 8
#: An interval over batches needs two of them.
A_FEW = 2 * BATCH


def _on_images(model: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = model(batch[0])
    return logits


def _per_image(logits: Tensor, batch: Batch) -> Tensor:
    return bce_tversky_per_image(logits, batch[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Patient:
    """A trained model in high precision, with data that it was not trained on."""

    family: str
    model: nn.Module
    batches: list[Batch] = field(repr=False)
    #: Losses ``[samples]`` of an output.
    losses: Callable[[Tensor, Batch], Tensor] = _per_image
    forward: Callable[[nn.Module, Batch], Tensor] = _on_images


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """An architecture, what it is trained on, and the recipes it is put under."""

    name: str
    recipes: tuple[str | QuantRecipe, ...]
    make: Callable[["Family", Path, bool], Patient]
    steps: int
    #: For an engine's training: the architecture and its options.
    arch: str = ""
    options: Options = ()
    #: A library that it needs.
    needs: str | None = None

    @property
    def there(self) -> bool:
        return self.needs is None or find_spec(self.needs) is not None

    def trained(self, folder: Path, *, quick: bool = False) -> Patient:
        """The trained model, kept in ``folder``: the second time it is read back."""
        return self.make(self, folder / self.name, quick)


def _segmentation(family: Family, folder: Path, quick: bool) -> Patient:
    """Trained on the engine's phantom, judged on its validation images."""
    steps = 3 if quick else family.steps
    ours = {"size": "tiny"} if family.needs is None else {}
    config = TrainConfig(
        arch=family.arch,
        model=family.options,
        batch=16,
        lr=2e-3,
        schedule=Schedule.COSINE,
        warmup=min(20, steps - 1),
        clip=1.0,
        augment=False,
        steps=steps,
        validation=16,
        test=16,
        **ours,
    )
    train(config, folder, resume=True)
    bench = reopen(folder / "best.pt")
    batches = _batches(bench.validation, A_FEW if quick else SAMPLES)
    return Patient(family=family.name, model=bench.model.eval(), batches=batches)


def _batches(loader: Sequence[object], samples: int) -> list[Batch]:
    loader.restart(0)  # type: ignore[attr-defined]
    images, masks = [], []
    for batch in loader:
        images.append(batch.image)  # type: ignore[attr-defined]
        masks.append(batch.mask.float())  # type: ignore[attr-defined]
    x, y = torch.cat(images)[:samples], torch.cat(masks)[:samples]
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))


def _language(family: Family, folder: Path, quick: bool) -> Patient:
    """Trained on the synthetic language, judged on sequences it has not seen."""
    model = tokens.trained(folder, 3 if quick else family.steps)
    drawn = tokens.sequences(A_FEW if quick else SAMPLES, seed=1)
    batches = [(part, part) for part in drawn.split(BATCH)]
    return Patient(
        family=family.name,
        model=model,
        batches=batches,
        losses=lambda logits, batch: tokens.losses(logits, batch[1]),
        forward=lambda net, batch: net(input_ids=batch[0]).logits,
    )


_OPTIONS_UNET: Options = (("channels", (16, 32, 64)), ("strides", (2, 2)), ("num_res_units", 1))
_OPTIONS_SWINUNETR: Options = (
    ("feature_size", 12),
    ("depths", (1, 1, 1, 1)),
    ("num_heads", (2, 2, 4, 4)),
    ("window_size", 4),
)


def _families() -> Iterator[Family]:
    image, text = _segmentation, _language
    yield Family(name="cnn", arch="cnn", recipes=_PLAIN, make=image, steps=300)
    yield Family(name="vit", arch="vit", recipes=_OURS, make=image, steps=300)
    yield Family(name="swin", arch="swin", recipes=_OURS, make=image, steps=300)
    yield Family(
        name="monai-unet", arch="monai:UNet", options=_OPTIONS_UNET, needs="monai",
        recipes=_PLAIN, make=image, steps=600,
    )  # fmt: skip
    yield Family(
        name="monai-swinunetr", arch="monai:SwinUNETR", options=_OPTIONS_SWINUNETR, needs="monai",
        recipes=_PLAIN, make=image, steps=300,
    )  # fmt: skip
    yield Family(
        name="hf-segformer", arch="diagnosis_segformer:segformer", needs="transformers",
        recipes=_PLAIN, make=image, steps=600,
    )  # fmt: skip
    yield Family(name="hf-llama", needs="transformers", recipes=_PLAIN, make=text, steps=1500)


#: All families by name.
FAMILIES = {family.name: family for family in _families()}
