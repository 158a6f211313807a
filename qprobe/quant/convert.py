"""Put a model under a recipe, in place, and say what was left alone and why."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeGuard, get_args

import torch
from torch import nn

from qprobe.errors import InputError
from qprobe.quant.attention import QuantizedScaledDotProduct, ScaledDotProduct
from qprobe.quant.catalogue import recipe as named
from qprobe.quant.layers import QUANTIZED, QuantizedLayer
from qprobe.quant.products import Setup, faithful
from qprobe.quant.recipe import QuantRecipe
from qprobe.quant.transposed import is_transposed, under_recipe

Layers = Literal["mid", "all"]

_QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    **QUANTIZED,
    ScaledDotProduct: QuantizedScaledDotProduct,
}
_PLAIN = {quantized: plain for plain, quantized in _QUANTIZED.items()}
#: What switches off the inference kernels that read weights past the layers that own them.
_FAST_PATHS: dict[type[nn.Module], str] = {
    nn.TransformerEncoderLayer: "activation_relu_or_gelu",
    nn.TransformerEncoder: "use_nested_tensor",
}
_SET_ASIDE = "_qprobe_fast_path"
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
        plural = "" if len(self.converted) == 1 else "s"
        lines = [f"{self.recipe}: {len(self.converted)} layer{plural} converted"]
        lines += [f"  {path}" for path in self.converted]
        if self.left_alone:
            lines.append(f"{len(self.left_alone)} left in high precision")
            lines += [
                f"  {one.path or 'the model itself'} ({one.kind}): {one.rule}"
                for one in self.left_alone
            ]
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

    ``layers="mid"`` leaves out the first and the last convertible layer, in the order in which the
    model registers them, and what the model itself names in ``qprobe_keep`` (a tuple of globs of
    module paths); ``"all"`` leaves out only the recipe's own ``skip``. :func:`override` has the
    last word. Convert before parametrizing, sharding or compiling.

    Recipes that round stochastically draw from ``generator``, one for all layers; without one a new
    generator with seed 0 is made where the model is. Keep it to save and restore its state. In data
    parallel training seed it by rank, or the ranks' rounding errors are correlated.

    >>> model = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 8))
    >>> print(convert(model, "nvfp4"))
    nvfp4: 1 layer converted
      1
    2 left in high precision
      0 (Linear): first layer
      2 (Linear): last layer
    """
    _check_types(model, generator)
    rule = _resolve(recipe)
    if layers not in get_args(Layers):
        raise InputError(f"layers is 'mid' or 'all', got {layers!r}.")
    candidates = dict(_candidates(model))
    left_alone = list(_unsupported(model))
    if rule.attention is not None and not any(map(_attends, candidates.values())):
        raise InputError(
            f"{rule.name} quantizes attention products, and the model has no "
            "qprobe.quant.ScaledDotProduct through which they could be reached."
        )
    _check_changeable(candidates)
    setup = _setup(model, rule, generator)
    kept = _kept(model, candidates, layers)
    converted = []
    for path, module in candidates.items():
        reason = _skipped(path, rule.skip, "the recipe's skip") or kept.get(path)
        reason = reason or _reason_in(rule, module)
        _apply(module, None if reason else setup)
        if reason is None:
            converted.append(path)
        else:
            left_alone.append(LeftAlone(path, _kind(module), reason))
    _settle_fast_paths(model)
    order = {name: place for place, (name, _) in enumerate(model.named_modules())}
    left_alone.sort(key=lambda one: order[one.path])
    return Conversion(rule.name, tuple(converted), tuple(left_alone))


def override(
    model: nn.Module,
    recipes: Mapping[str, str | QuantRecipe],
    generator: torch.Generator | None = None,
) -> Conversion:
    """Give single layers a recipe of their own, whatever :func:`convert` decided.

    Keys are globs of module paths, later ones win; ``"bf16"`` returns a layer to high precision. A
    glob that matches no convertible layer is an error.
    """
    _check_types(model, generator)
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
    _check_changeable({path: candidates[path] for path in chosen})
    generator = generator or _generator_in_use(candidates.values())
    setups: dict[QuantRecipe, Setup] = {}
    for rule in chosen.values():
        setups.setdefault(rule, _setup(model, rule, generator))
        generator = generator or setups[rule].generator  # one for all
    converted, left_alone = [], []
    for path, rule in chosen.items():
        module = candidates[path]
        if _reason_in(rule, module) is None:
            _apply(module, setups[rule])
            converted.append(path)
        else:
            _apply(module, None)
            left_alone.append(LeftAlone(path, _kind(module), f"override: {rule.name}"))
    _settle_fast_paths(model)
    names = " + ".join(dict.fromkeys(rule.name for rule in chosen.values()))
    return Conversion(names, tuple(converted), tuple(left_alone))


def restored(model: nn.Module, paths: Collection[str]) -> AbstractContextManager[None]:
    """Single quantized layers in high precision inside, and exactly as they were after.

    What :func:`override` does with ``"bf16"``, on loan: a layer comes back with its own recipe,
    quantizer and generator. ``paths`` are exact.

    >>> model = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 8))
    >>> _ = convert(model, "nvfp4")
    >>> with restored(model, ["1"]):
    ...     type(model[1]) is nn.Linear
    True
    >>> model[1].recipe.name
    'nvfp4'
    """
    return Restoring(model).of(paths)()


class Restoring:
    """What :func:`restored` does, for many sets of layers and again and again.

    The model's modules are looked up once; it keeps them as long as this is used.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        fast = tuple(_FAST_PATHS)
        self._encoders = [one for one in self._modules.values() if isinstance(one, fast)]

    def of(self, paths: Collection[str]) -> Callable[[], AbstractContextManager[None]]:
        """To be called for each time that these layers are put back."""
        modules = self._modules
        chosen = []
        for path in paths:
            module = modules.get(path)
            if module is None or not _is_quantized(module):
                known = [name for name, one in modules.items() if _is_quantized(one)]
                raise InputError(f"{path!r} is no quantized layer; there are {_some(known)}.")
            chosen.append(module)
        _check_changeable({path: modules[path] for path in paths})
        return lambda: _on_loan(chosen, self._encoders)


@contextmanager
def _on_loan(
    layers: Sequence[QuantizedLayer | QuantizedScaledDotProduct], encoders: Sequence[nn.Module]
) -> Iterator[None]:
    setups: dict[nn.Module, Setup] = {layer: layer.setup for layer in layers}
    try:
        for module in setups:
            _apply(module, None)
        _settle(encoders)
        yield
    finally:
        for module, setup in setups.items():
            _apply(module, setup)
        _settle(encoders)


def _check_types(model: object, generator: object) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"a model is a torch.nn.Module, got a {type(model).__name__}.")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise InputError(f"generator is a torch.Generator, got {generator!r}.")


def _resolve(recipe: str | QuantRecipe) -> QuantRecipe:
    return named(recipe) if isinstance(recipe, str) else recipe


def _setup(model: nn.Module, recipe: QuantRecipe, generator: torch.Generator | None) -> Setup:
    if recipe.random and generator is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        generator = torch.Generator(device).manual_seed(0)
    return Setup(recipe=recipe, quantizer=faithful, generator=generator)


def _generator_in_use(modules: Iterable[nn.Module]) -> torch.Generator | None:
    for module in modules:
        if isinstance(module, QuantizedLayer) and module.setup.generator is not None:
            return module.setup.generator
    return None


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What is of exactly the types that can be converted, or was, in ``named_modules()`` order."""
    for path, module in model.named_modules():
        if _can_be_quantized(type(module)) or _is_quantized(module):
            yield path, module


def _can_be_quantized(kind: type[nn.Module]) -> bool:
    """Whether layers of exactly this class can; a class of a library is learnt when it is met."""
    if kind not in _QUANTIZED and is_transposed(kind):
        _QUANTIZED[kind] = under_recipe(kind)
        _PLAIN[_QUANTIZED[kind]] = kind
    return kind in _QUANTIZED


def _is_quantized(module: nn.Module) -> TypeGuard[QuantizedLayer | QuantizedScaledDotProduct]:
    return isinstance(module, QuantizedLayer | QuantizedScaledDotProduct)


def _check_changeable(candidates: Mapping[str, nn.Module]) -> None:
    for path, module in candidates.items():
        if _is_quantized(module) and type(module) not in _PLAIN:
            raise InputError(
                f"{path or 'the model'} became a {type(module).__name__} after it was put under "
                f"{module.recipe.name}, which can no longer change; convert first, then "
                "parametrize or shard."
            )


def _unsupported(model: nn.Module) -> Iterator[LeftAlone]:
    """Modules that may well multiply by a weight and yet cannot be converted."""
    for path, module in model.named_modules():
        if _can_be_quantized(type(module)) or _is_quantized(module):
            continue
        if rule := _why_not(module):
            yield LeftAlone(path, type(module).__name__, rule)


def _why_not(module: nn.Module) -> str | None:
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        return "its shape is not known yet: run a batch through the model first"
    if base := next((b for b in _QUANTIZED if isinstance(module, b)), None):
        return f"a subclass of {base.__name__} with behaviour of its own"
    if opaque := next((b for b in _OPAQUE if isinstance(module, b)), None):
        return _OPAQUE[opaque]
    matrices = [name for name, p in module.named_parameters(recurse=False) if p.dim() > 1]
    return f"uses {', '.join(matrices)} in code of its own" if matrices else None


def _kept(model: nn.Module, candidates: Mapping[str, nn.Module], layers: Layers) -> dict[str, str]:
    """What ``layers="mid"`` keeps in high precision, with the rule for each."""
    if layers == "all":
        return {}
    globs = tuple(_keep_globs(model))
    reasons = {path: _skipped(path, globs, "the model's qprobe_keep") for path in candidates}
    kept = {path: reason for path, reason in reasons.items() if reason}
    paths = [path for path, module in candidates.items() if not _attends(module)]
    if paths:
        kept |= {paths[-1]: "last layer", paths[0]: "first layer"}
    return kept


def _keep_globs(model: nn.Module) -> Iterator[str]:
    """What the model names itself, and what models inside a wrapper or a larger one name."""
    for path, module in model.named_modules():
        globs = getattr(module, "qprobe_keep", ())
        if isinstance(globs, str):
            raise InputError(
                f"qprobe_keep of {type(module).__name__} is {globs!r}; make it a tuple of globs."
            )
        for glob in globs:
            yield f"{path}.{glob}" if path else glob


def _skipped(path: str, globs: tuple[str, ...], whose: str) -> str | None:
    for glob in globs:
        if fnmatchcase(path, glob):
            return f"{whose}: {glob}"
    return None


def _attends(module: nn.Module) -> bool:
    return isinstance(module, ScaledDotProduct)


def _reason_in(rule: QuantRecipe, module: nn.Module) -> str | None:
    """Why the recipe itself leaves a module in high precision."""
    if _attends(module):
        return None if rule.attention else "the recipe has no attention products"
    return None if rule.quantizes else "the recipe quantizes nothing"


def _apply(module: nn.Module, setup: Setup | None) -> None:
    """Put a module under a recipe, or back into high precision."""
    if plain := _PLAIN.get(type(module)):
        del module.setup
        _become(module, plain)
    if setup is None:
        return
    _become(module, _QUANTIZED[type(module)])
    module.setup = setup  # type: ignore[assignment]


def _settle_fast_paths(model: nn.Module) -> None:
    """Keep PyTorch's encoders from reading weights of quantized layers instead of calling them."""
    _settle(model.modules())


def _settle(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        for kind, switch in _FAST_PATHS.items():
            if isinstance(module, kind) and hasattr(module, switch):
                mine = vars(module)
                quantized = any(isinstance(m, QuantizedLayer) for m in module.modules())
                if quantized and _SET_ASIDE not in mine:
                    mine[_SET_ASIDE], mine[switch] = mine[switch], 0
                elif not quantized and _SET_ASIDE in mine:
                    mine[switch] = mine.pop(_SET_ASIDE)


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
