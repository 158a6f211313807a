"""The sites that a model's modules own, found without running it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from qprobe.errors import InputError
from qprobe.quant.attention import ScaledDotProduct
from qprobe.quant.transposed import stores_transposed
from qprobe.records.schema import Role
from qprobe.sites.own_forward import OWN, computes_its_own, keeps_its_own
from qprobe.sites.site import ROOT, Site
from qprobe.sites.tap import Tap

#: First match wins. Quantized layers of qprobe.quant are subclasses of the plain ones.
_KINDS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Linear, "linear"),
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv2d"),
    (nn.Conv3d, "conv3d"),
    (nn.ConvTranspose1d, "conv_transpose1d"),
    (nn.ConvTranspose2d, "conv_transpose2d"),
    (nn.ConvTranspose3d, "conv_transpose3d"),
    (nn.Embedding, "embedding"),
    (nn.EmbeddingBag, "embedding"),
    (_NormBase, "norm"),
    (nn.LayerNorm, "norm"),
    (nn.GroupNorm, "norm"),
    (nn.RMSNorm, "norm"),
    (nn.LocalResponseNorm, "norm"),
    (nn.MultiheadAttention, "attention"),
    (ScaledDotProduct, "attention"),
    (Tap, "tap"),
)
#: Modules of Transformer Engine by the name of their class: kind, and roles of passing tensors. A
#: layer that a norm is fused into multiplies the norm's result, so its input is no operand.
_TRANSFORMER_ENGINE: Mapping[str, tuple[str, tuple[Role, ...]]] = {
    "Linear": ("linear", (Role.INPUT, Role.OUTPUT, Role.GRAD_OUTPUT)),
    "LayerNormLinear": ("linear", (Role.OUTPUT, Role.GRAD_OUTPUT)),
    "LayerNormMLP": ("mlp", (Role.INPUT, Role.OUTPUT, Role.GRAD_OUTPUT)),
    "LayerNorm": ("norm", (Role.INPUT, Role.OUTPUT, Role.GRAD_OUTPUT)),
    "RMSNorm": ("norm", (Role.INPUT, Role.OUTPUT, Role.GRAD_OUTPUT)),
    "DotProductAttention": ("attention", (Role.OUTPUT, Role.GRAD_OUTPUT)),
}
#: Norms that libraries write themselves, such as ``LlamaRMSNorm`` or ``LayerNorm2d``.
_NORM = re.compile(r"Norm(?:\dd)?$")

_PASSING = (Role.INPUT, Role.OUTPUT, Role.GRAD_OUTPUT)
_ATTENDING = (Role.ATTN_LOGITS, Role.ATTN_PROBS)
_LEARNED = (Role.WEIGHT, Role.GRAD_WEIGHT)


@dataclass(frozen=True, slots=True)
class Owner:
    """A module, the name of its sites and the roles that it has."""

    module: nn.Module
    path: str
    kind: str
    roles: tuple[Role, ...]

    @property
    def sites(self) -> list[Site]:
        """One site a role; query, key and value are three inputs of an attention."""
        several = self.kind == "attention" and isinstance(self.module, ScaledDotProduct)
        counts = {Role.INPUT: 3 if several else 1}
        return [
            Site(self.path, role, self.kind, index)
            for role in self.roles
            for index in range(counts.get(role, 1))
        ]


def discover(model: nn.Module) -> list[Site]:
    """The sites of all modules of a known kind, in ``named_modules()`` order.

    A module that is used under several names is listed once, under the first
    (:func:`aliases` has the others). What no module owns is found by :func:`qprobe.sites.trace`.

    The projections of ``nn.MultiheadAttention`` are used without being called. They are listed as
    ``…in_proj`` and ``…out_proj`` with the roles that can be seen from outside. A layer whose
    weight is computed anew in every pass (``torch.nn.utils.parametrize``) has no weight sites. A
    linear or convolution with a ``forward`` of its own has the kind ``own_linear`` and alike.

    >>> for site in discover(nn.Sequential(nn.Linear(8, 4), nn.ReLU())):
    ...     print(site)
    linear 0 input
    linear 0 output
    linear 0 grad_output
    linear 0 weight
    linear 0 grad_weight
    """
    return [site for owner in owners(model) for site in owner.sites]


def owners(model: nn.Module) -> list[Owner]:
    """The modules that have sites, each once."""
    found: list[Owner] = []
    inside: set[nn.Module] = set()
    for path, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            inside.update(module.modules())
        kind = kind_of(module)
        if kind is None or module in inside:
            continue
        if isinstance(module, nn.MultiheadAttention):
            found += _multihead(path, module)
            inside.add(module.out_proj)
        else:
            found.append(Owner(module, _name(path, module), kind, _roles(module, kind)))
    names = [owner.path for owner in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two taps are named {name!r}; give one of them another name.")
    return found


def kind_of(module: nn.Module) -> str | None:
    """What ``module`` is here, or None where it owns no site."""
    for base, kind in _KINDS:
        if isinstance(module, base):
            return f"{OWN}{kind}" if computes_its_own(module) else kind
    if _is_of(module, "transformer_engine"):
        return _TRANSFORMER_ENGINE.get(type(module).__name__, (None, ()))[0]
    if stores_transposed(module):
        return "linear"
    if _of_transformers(module) and _is_attention(module):
        return "attention"
    leaf = next(module.children(), None) is None
    return "norm" if leaf and _NORM.search(type(module).__name__) else None


def aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The other names of modules and parameters that have several, by their first.

    >>> shared = nn.Linear(2, 2)
    >>> aliases(nn.Sequential(shared, nn.ReLU(), shared))
    {'0': ('2',)}
    """
    modules = _shared(model.named_modules(remove_duplicate=False))
    inside = {name for others in modules.values() for name in others}
    parameters = _shared(
        (name, parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not any(name.startswith(f"{other}.") for other in inside)
    )
    return modules | parameters


def select(
    sites: Iterable[Site], glob: str = "*", kind: str | None = None, role: Role | None = None
) -> list[Site]:
    """The sites whose path matches ``glob``, of one kind and role where these are given.

    Nothing found is an error that says what there is.

    >>> found = select(discover(nn.Linear(2, 2)), kind="conv2d")
    Traceback (most recent call last):
        ...
    qprobe.errors.InputError: no site has the kind 'conv2d'; there are linear (5).
    """
    sites = list(sites)
    found = [
        site
        for site in sites
        if fnmatchcase(site.path or ROOT, glob)
        and kind in (None, site.kind)
        and role in (None, site.role)
    ]
    if found:
        return found
    asked = [
        *([f"a path like {glob!r}"] if glob != "*" else []),
        *([f"the kind {kind!r}"] if kind is not None else []),
        *([f"the role {str(role)!r}"] if role is not None else []),
    ]
    counts = {site.kind: 0 for site in sites}
    for site in sites:
        counts[site.kind] += 1
    known = ", ".join(f"{name} ({count})" for name, count in counts.items()) or "none at all"
    raise InputError(f"no site has {' and '.join(asked) or 'been found'}; there are {known}.")


def _of_transformers(module: nn.Module) -> bool:
    return _is_of(module, "transformers")


def _is_of(module: nn.Module, library: str) -> bool:
    return type(module).__module__.startswith(f"{library}.")


def _is_attention(module: nn.Module) -> bool:
    """Called an attention and holding its own projections, so wrappers are left out."""
    projections = [child for child in module.children() if _is_linear(_adapted(child))]
    return type(module).__name__.endswith("Attention") and len(projections) >= 2


def _adapted(module: nn.Module) -> nn.Module:
    """The layer that an adapter such as LoRA is wrapped around, by the name that PEFT gives it."""
    inner = getattr(module, "base_layer", None)
    return _adapted(inner) if isinstance(inner, nn.Module) else module


def _is_linear(module: nn.Module) -> bool:
    return (kind_of(module) or "").removeprefix(OWN) == "linear"


def _name(path: str, module: nn.Module) -> str:
    if isinstance(module, Tap):
        return f"{path.rpartition('.')[0] or ROOT}/{module.name}"
    return path


def _roles(module: nn.Module, kind: str) -> tuple[Role, ...]:
    if kind == "tap":
        return (Role.OUTPUT, Role.GRAD_OUTPUT)
    if kind == "attention" and not _is_of(module, "transformer_engine"):
        # Only a module that is called with queries and keys can give their logits.
        return _PASSING + (_ATTENDING if isinstance(module, ScaledDotProduct) else ())
    passing: tuple[Role, ...] = _PASSING[1:] if kind == "embedding" else _PASSING
    if _is_of(module, "transformer_engine"):
        _, passing = _TRANSFORMER_ENGINE[type(module).__name__]
    if parametrize.is_parametrized(module):  # to read such a weight may change the model
        return passing
    weighted = isinstance(getattr(module, "weight", None), nn.Parameter)
    weighted = weighted and not keeps_its_own(module)
    return passing + (_LEARNED if weighted else ())


def _multihead(path: str, module: nn.MultiheadAttention) -> Iterator[Owner]:
    """The attention itself and its two projections, as far as they can be seen from outside."""
    dot = f"{path}." if path else ""
    yield Owner(module, path, "attention", _ATTENDING)
    packed: Tensor | None = module.in_proj_weight
    weight = () if packed is None else _LEARNED
    yield Owner(module, f"{dot}in_proj", "linear", (Role.INPUT, *weight))
    roles = (Role.OUTPUT, Role.GRAD_OUTPUT, *_LEARNED)
    yield Owner(module, f"{dot}out_proj", "linear", roles)


def _shared(named: Iterable[tuple[str, nn.Module | Tensor]]) -> dict[str, tuple[str, ...]]:
    names: dict[int, list[str]] = {}
    for name, item in named:
        names.setdefault(id(item), []).append(name)
    return {first: tuple(rest) for first, *rest in names.values() if rest}


def by_path(found: Iterable[Owner]) -> Mapping[str, Owner]:
    """Owners by the name of their sites."""
    return {owner.path: owner for owner in found}


def linears_beside(path: str, owned: Mapping[str, Owner]) -> tuple[nn.Module, ...]:
    """The linear layers of the module in which the attention ``path`` is, or nearest around it.

    >>> block = nn.ModuleDict({"q": nn.Linear(2, 2), "attend": ScaledDotProduct()})
    >>> owned = by_path(owners(nn.ModuleDict({"block": block, "head": nn.Linear(2, 1)})))
    >>> linears_beside("block.attend", owned), linears_beside("block/sdpa.0", owned)
    ((Linear(in_features=2, out_features=2, bias=True),), (Linear(in_features=2, ...),))
    """
    around = path.partition("/")[0].removeprefix(ROOT)
    while True:
        prefix = f"{around}." if around else ""
        inside = (one for one in owned.values() if one.path.startswith(prefix))
        found = [one.module for one in inside if one.kind == "linear" and one.path != around]
        found = [one for one in found if not isinstance(one, nn.MultiheadAttention)]
        if found or not around:
            return tuple(dict.fromkeys(found))
        around = around.rpartition(".")[0]
