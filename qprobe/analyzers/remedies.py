"""What can be done about one layer without leaving its format, applied on loan.

A remedy here is another setup of a layer that is already under a recipe: a finer granularity, a
rotation or a tile of the catalogue, a transform of :mod:`qprobe.quant.ptq`. Nothing of the layer
but its setup changes, so taking a remedy away is exact.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.quant import QuantRecipe, QuantSpec, recipes
from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.products import Setup
from qprobe.quant.ptq import Applied, rotate, smooth, svd
from qprobe.quant.recipe import Gemm

#: The transforms by name; the largest input of each channel is for the one that needs it.
TRANSFORMS: Mapping[str, Callable[[nn.Module, str, Tensor], Applied]] = {
    "smooth": smooth,
    "rotate": lambda model, path, _: rotate(model, path),
    "svd": lambda model, path, _: svd(model, path),
}


def finer(recipe: QuantRecipe) -> list[QuantRecipe]:
    """Recipes of the catalogue that quantize the forward product otherwise, in the same formats.

    Of recipes with one forward product the first stands for all.

    >>> from qprobe.quant import recipe
    >>> [one.name for one in finer(recipe("int4-tensor"))]
    ['int4-channel-token', 'int4-adaptive']
    >>> [one.name for one in finer(recipe("nvfp4-sr"))]
    ['nvfp4-fwd-rht', 'nvfp4-2d-rht']
    """
    found: dict[Gemm, QuantRecipe] = {}
    for other in recipes():
        same = _formats(other.fprop) == _formats(recipe.fprop)
        if same and other.fprop != recipe.fprop:
            found.setdefault(other.fprop, other)
    return list(found.values())


def for_training(recipe: QuantRecipe) -> list[QuantRecipe]:
    """Recipes of the catalogue that treat the backward products otherwise, in the same formats.

    >>> from qprobe.quant import recipe
    >>> [one.name for one in for_training(recipe("nvfp4"))]
    ['nvfp4-chain', 'nvfp4-sr', 'nvfp4-2d-rht', 'nvfp4-2d-rht-sr']
    """
    return [
        other
        for other in recipes()
        if _formats(other.fprop) == _formats(recipe.fprop)
        and (other.dgrad, other.wgrad) != (recipe.dgrad, recipe.wgrad)
        and (other.dgrad.quantizes or other.wgrad.quantizes)
    ]


@contextmanager
def prepared(
    model: nn.Module, path: str, amax: Tensor
) -> Iterator[tuple[dict[str, Setup], dict[str, str]]]:
    """The setups under which the layer ``path`` might do better, by name, and what is impossible.

    They can be put into force with :func:`in_force` as often as wanted inside. ``amax`` is the
    largest magnitude of each input channel, as :func:`qprobe.quant.ptq.input_amax` gives it.
    """
    module = model.get_submodule(path)
    if not isinstance(module, QuantizedLayer):
        raise InputError(f"{path} is a {type(module).__name__} in high precision: nothing to mend.")
    own = module.setup
    found = {one.name: _with_recipe(own, one, module) for one in finer(own.recipe)}
    impossible: dict[str, str] = {}
    with ExitStack() as stack:
        for name, transform in TRANSFORMS.items():
            try:
                standing = _standing_by(module, partial(transform, model, path, amax))
                found[name] = stack.enter_context(standing)
            except InputError as error:
                impossible[name] = str(error)
        yield found, impossible


@contextmanager
def in_force(setups: Mapping[nn.Module, Setup]) -> Iterator[None]:
    """Layers with other setups inside, with their own after."""
    own = {module: cast("Setup", module.setup) for module in setups}
    try:
        for module, setup in setups.items():
            module.setup = setup  # type: ignore[assignment]
        yield
    finally:
        for module, setup in own.items():
            module.setup = setup  # type: ignore[assignment]


def under(recipe: QuantRecipe, modules: Iterable[QuantizedLayer]) -> dict[nn.Module, Setup]:
    """The setups of layers under another recipe, each with its own quantizer."""
    return {module: _with_recipe(module.setup, recipe, module) for module in modules}


def _with_recipe(own: Setup, recipe: QuantRecipe, module: nn.Module) -> Setup:
    generator = own.generator
    if recipe.random and generator is None:
        generator = torch.Generator(next(module.parameters()).device).manual_seed(0)
    return replace(own, recipe=recipe, generator=generator)


@contextmanager
def _standing_by(module: QuantizedLayer, transform: Callable[[], Applied]) -> Iterator[Setup]:
    """The setup that a transform gives a layer; the layer keeps its own until it is asked."""
    own = module.setup
    applied = transform()
    given = module.setup
    module.setup = own  # what the transform hung up beside it acts under its own setup only
    try:
        yield given
    finally:
        module.setup = given
        applied.undo()


def _formats(gemm: Gemm) -> tuple[object, object]:
    return tuple(  # type: ignore[return-value]
        how.format if isinstance(how, QuantSpec) else how for how in (gemm.a, gemm.b)
    )
