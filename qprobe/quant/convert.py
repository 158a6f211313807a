"""Put a model under a recipe, in place, and say what was left alone and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import nn

from qprobe.errors import InputError
from qprobe.quant.attention import QuantizedScaledDotProduct, ScaledDotProduct
from qprobe.quant.catalogue import recipe as named
from qprobe.quant.layers import QUANTIZED, QuantizedLayer
from qprobe.quant.products import Setup, faithful
from qprobe.quant.recipe import QuantRecipe

Layers = Literal["mid", "all"]

_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    quantized: plain for plain, quantized in QUANTIZED.items()
}
#: Modules with weights that are multiplied, but not through the module's own forward pass.
_OPAQUE = {
    nn.MultiheadAttention: "its projections are used without calling them",
    nn.LSTM: "recurrent kernels are fused",
    nn.GRU: "recurrent kernels are fused",
    nn.RNN: "recurrent kernels are fused",
    nn.Bilinear: "no recipe is defined for three factors",
}


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A layer that stays in high precision, and the rule that says so."""

    path: str
    kind: str
    rule: str


@dataclass(frozen=True, slots=True)
class Conversion:
    """What :func:`convert` or :func:`override` did: print it, or ask it.

    Paths are those of ``model.named_modules()``; a shared module has the first of its names.
    """

    recipe: str
    converted: tuple[str, ...]
    left_alone: tuple[LeftAlone, ...]

    def __str__(self) -> str:
        lines = [f"{self.recipe}: {len(self.converted)} layers converted"]
        lines += [f"  {path}" for path in self.converted]
        if self.left_alone:
            lines.append(f"{len(self.left_alone)} left in high precision")
            lines += [f"  {one.path} ({one.kind}): {one.rule}" for one in self.left_alone]
        return "\n".join(lines)


def convert(
    model: nn.Module,
    recipe: str | QuantRecipe,
    layers: Layers = "mid",
    generator: torch.Generator | None = None,
) -> Conversion:
    """Put every convertible layer of ``model`` under ``recipe``, in place.

    A layer keeps its identity, parameters, parameter names, hooks and references, so optimizers
    made before still hold and a state dict of the plain model loads both ways. Converting again
    replaces the recipe; ``"bf16"`` takes it away.

    ``layers="mid"`` leaves out the first and the last convertible layer and what the model itself
    names in ``qprobe_keep`` (a tuple of globs of module paths); ``"all"`` leaves out only the
    recipe's own ``skip``. :func:`override` has the last word.

    Recipes that round stochastically draw from ``generator``, one for all layers; without one a new
    generator with seed 0 is made where the model is. Keep it to save and restore its state.

    >>> model = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 8))
    >>> print(convert(model, "nvfp4"))
    nvfp4: 1 layers converted
      1
    2 left in high precision
      0 (Linear): first layer
      2 (Linear): last layer
    """
    rule = _resolve(recipe)
    if layers not in get_args(Layers):
        raise InputError(f"layers is 'mid' or 'all', got {layers!r}.")
    setup = _setup(model, rule, generator)
    candidates = dict(_candidates(model))
    left_alone = list(_unsupported(model))
    kept = _kept(model, candidates, layers)
    converted = []
    for path, module in candidates.items():
        reason = _skipped(path, rule.skip, "the recipe's skip") or kept.get(path)
        if reason is None and rule.quantizes:
            _become_quantized(module, setup)
            converted.append(path)
        else:
            _become_plain(module)
            left_alone.append(
                LeftAlone(path, _kind(module), reason or "the recipe quantizes nothing")
            )
    attended, untouched = _convert_attention(model, rule)
    order = {name: place for place, (name, _) in enumerate(model.named_modules())}
    left_alone.sort(key=lambda one: order[one.path])
    converted += attended
    return Conversion(rule.name, tuple(converted), (*left_alone, *untouched))


def override(
    model: nn.Module,
    recipes: Mapping[str, str | QuantRecipe],
    generator: torch.Generator | None = None,
) -> Conversion:
    """Give single layers a recipe of their own, whatever :func:`convert` decided.

    Keys are globs of module paths, later ones win; ``"bf16"`` returns a layer to high precision. A
    glob that matches no convertible layer is an error.
    """
    candidates = dict(_candidates(model))
    chosen: dict[str, QuantRecipe] = {}
    for glob, recipe in recipes.items():
        rule = _resolve(recipe)
        paths = [path for path in candidates if fnmatchcase(path, glob)]
        if not paths:
            raise InputError(
                f"no convertible layer matches {glob!r}; there are {_some(list(candidates))}."
            )
        chosen.update(dict.fromkeys(paths, rule))
    generator = generator or _generator_in_use(candidates.values())
    setups = {rule.name: _setup(model, rule, generator) for rule in chosen.values()}
    converted, left_alone = [], []
    for path, rule in chosen.items():
        if rule.quantizes:
            _become_quantized(candidates[path], setups[rule.name])
            converted.append(path)
        else:
            _become_plain(candidates[path])
            left_alone.append(LeftAlone(path, _kind(candidates[path]), f"override: {rule.name}"))
    names = " + ".join(dict.fromkeys(rule.name for rule in chosen.values()))
    return Conversion(names, tuple(converted), tuple(left_alone))


def _resolve(recipe: str | QuantRecipe) -> QuantRecipe:
    return named(recipe) if isinstance(recipe, str) else recipe


def _setup(model: nn.Module, recipe: QuantRecipe, generator: torch.Generator | None) -> Setup:
    if recipe.random and generator is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        generator = torch.Generator(device).manual_seed(0)
    return Setup(recipe=recipe, quantizer=faithful, generator=generator)


def _generator_in_use(modules: object) -> torch.Generator | None:
    for module in modules:  # type: ignore[attr-defined]
        if isinstance(module, QuantizedLayer) and module.setup.generator is not None:
            return module.setup.generator
    return None


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of exactly the types that can be converted, in ``named_modules()`` order."""
    for path, module in model.named_modules():
        if type(module) in QUANTIZED or type(module) in _PLAIN:
            yield path, module


def _unsupported(model: nn.Module) -> Iterator[LeftAlone]:
    """Layers that multiply by a weight and yet cannot be converted."""
    for path, module in model.named_modules():
        kind = type(module)
        if kind in QUANTIZED or kind in _PLAIN:
            continue
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            yield LeftAlone(path, kind.__name__, "embedding")
        elif base := next((b for b in QUANTIZED if isinstance(module, b)), None):
            rule = f"a subclass of {base.__name__} with behaviour of its own"
            yield LeftAlone(path, kind.__name__, rule)
        elif opaque := next((b for b in _OPAQUE if isinstance(module, b)), None):
            yield LeftAlone(path, kind.__name__, _OPAQUE[opaque])


def _kept(model: nn.Module, candidates: Mapping[str, nn.Module], layers: Layers) -> dict[str, str]:
    """What ``layers="mid"`` keeps in high precision, with the rule for each."""
    if layers == "all" or not candidates:
        return {}
    kept = {}
    globs = getattr(model, "qprobe_keep", ())
    for path in candidates:
        if reason := _skipped(path, globs, "the model's qprobe_keep"):
            kept[path] = reason
    paths = list(candidates)
    return {**kept, paths[-1]: "last layer", paths[0]: "first layer"}


def _skipped(path: str, globs: tuple[str, ...], whose: str) -> str | None:
    for glob in globs:
        if fnmatchcase(path, glob):
            return f"{whose}: {glob}"
    return None


def _convert_attention(model: nn.Module, recipe: QuantRecipe) -> tuple[list[str], list[LeftAlone]]:
    converted, left_alone = [], []
    for path, module in model.named_modules():
        if not isinstance(module, ScaledDotProduct):
            continue
        if recipe.attention is not None:
            _become(module, QuantizedScaledDotProduct)
            module.recipe = recipe  # type: ignore[assignment]
            converted.append(path)
            continue
        if isinstance(module, QuantizedScaledDotProduct):
            _become(module, ScaledDotProduct)
            del module.recipe
        left_alone.append(
            LeftAlone(path, "ScaledDotProduct", "the recipe has no attention products")
        )
    if recipe.attention is not None and not converted:
        raise InputError(
            f"{recipe.name} quantizes attention products, and the model has no "
            "qprobe.quant.ScaledDotProduct through which they could be reached."
        )
    return converted, left_alone


def _become_quantized(module: nn.Module, setup: Setup) -> None:
    _become(module, QUANTIZED.get(type(module), type(module)))
    module.setup = setup  # type: ignore[assignment]


def _become_plain(module: nn.Module) -> None:
    if isinstance(module, QuantizedLayer):
        _become(module, _PLAIN[type(module)])
        del module.setup


def _become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Change a module's class where it stands: whoever holds it keeps holding the same layer."""
    module.__class__ = kind


def _kind(module: nn.Module) -> str:
    return _PLAIN.get(type(module), type(module)).__name__


def _some(paths: list[str]) -> str:
    if not paths:
        return "none at all"
    shown = ", ".join(paths[:6])
    return shown if len(paths) <= 6 else f"{shown} and {len(paths) - 6} more"
