"""A branch of a fusion that no gradient reaches; the forward pass is untouched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.faults.fault import Example, Place, Traces, more_than_one
from qprobe.quant.ptq.channels import Channels, is_norm
from qprobe.records.schema import Role
from qprobe.sites.site import ROOT
from qprobe.sites.trace import Fusion, trace


class _Weaker(torch.autograd.Function):
    """The same values; gradients are multiplied by ``factor``, which broadcasts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor.to(grad), None


def _weaker(x: Tensor, factor: Tensor) -> Tensor:
    weaker: Tensor = _Weaker.apply(x, factor)  # type: ignore[no-untyped-call]
    return weaker


@dataclass(frozen=True, slots=True, eq=False)
class _Entrance:
    """A forward pre-hook: the gradient that leaves a branch where it began is weaker."""

    factor: Tensor

    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_weaker(args[0], self.factor), *args[1:])


@dataclass(frozen=True, slots=True, eq=False)
class _Joined:
    """A forward hook: the gradient that comes back to some channels of a ``cat`` is weaker."""

    factor: Tensor

    def __call__(self, _: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        return _weaker(y, self.factor.view(-1, *[1] * (y.dim() - 2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Branch:
    """One branch that can be starved: before the module ``path``, or in channels after it."""

    path: str
    channels: tuple[int, int, int] | None = None


def fusions(model: nn.Module, example: Example) -> list[str]:
    """Fusions with a branch whose gradient can be reached from outside."""
    return list(_starvable(model, example))


def _starvable(model: nn.Module, example: Example) -> dict[str, list[_Branch]]:
    if not example:
        raise InputError(
            "a dead branch is found by running the model; pass example=, the arguments of one call."
        )
    found = {}
    traced = trace(model, *example).fusions
    joints = _joints(model, example, [one.call.path for one in traced if one.kind == "cat"])
    for fusion in traced:
        if fusion.kind == "add":
            branches = _entrances(fusion)
        else:
            branches = _parts(model, fusion, joints.get(fusion.call.path))
        if branches:
            found[str(fusion.call)] = branches
    return found


def _joints(model: nn.Module, example: Example, paths: Sequence[str]) -> dict[str, int]:
    """Channels of the modules that return what they joined, through nothing that learns."""
    found: dict[str, int] = {}

    def look(path: str) -> Callable[[nn.Module, tuple[Any, ...], object], None]:
        def keep(_: nn.Module, __: tuple[Any, ...], y: object) -> None:
            if isinstance(y, Tensor) and y.dim() > 1 and _ends_in_cat(y):
                found[path] = y.shape[1]

        return keep

    handles = [model.get_submodule(path).register_forward_hook(look(path)) for path in paths]
    try:
        trace(model, *example)  # as the first pass: whatever it moves is put back
    finally:
        for handle in handles:
            handle.remove()
    return found


def _ends_in_cat(y: Tensor) -> bool:
    """Whether the last operation with more than one differentiable input was a ``cat``."""
    node = y.grad_fn
    while node is not None:
        if node.name().startswith("CatBackward"):
            return True
        before = [one for one, _ in node.next_functions if one is not None]
        node = before[0] if len(before) == 1 else None
    return False


def _entrances(fusion: Fusion) -> list[_Branch]:
    """Branches of an addition that begin with the call of a module other than the fusion's own."""
    found = []
    for branch in fusion.branches:
        paths = {call.path for call, _ in branch.exits}
        inside = {path for path in paths if _is_inside(path, fusion.call.path)}
        if len(paths) == 1 and inside == paths:
            found.append(_Branch(path=paths.pop()))
    return found


def _is_inside(path: str, owner: str) -> bool:
    return path not in (owner, ROOT, "") and (owner in ("", ROOT) or path.startswith(f"{owner}."))


def _parts(model: nn.Module, fusion: Fusion, joint: int | None) -> list[_Branch]:
    """Branches of a ``cat`` that its module returns with ``joint`` channels, by their channels."""
    if fusion.kind != "cat" or joint is None:
        return []
    widths = [_width(model, branch.producers) for branch in fusion.branches]
    if any(width is None for width in widths):
        return []
    sizes = [width for width in widths if width is not None]
    if sum(sizes) != joint:
        return []
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    return [
        _Branch(path=fusion.call.path, channels=(end - size, end, ends[-1]))
        for size, end in zip(sizes, ends, strict=True)
    ]


def _width(model: nn.Module, producers: tuple[str, ...]) -> int | None:
    """Output channels of the one module that made a branch; a fusion is the sum of its own."""
    if len(producers) != 1 or "/" in producers[0]:
        return None
    module = model.get_submodule("" if producers[0] == ROOT else producers[0])
    if is_norm(module):
        return int(module.get_parameter("weight").numel())
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):  # noqa: SLF001
        return Channels.of(module, producers[0]).outputs
    return None


def dead_branch(place: Place) -> Traces:
    """The gradient of one branch is ``strength`` times as small."""
    more_than_one(place, "factor")
    branches = _starvable(place.model, place.example)[place.path]
    branch = branches[place.drawn(len(branches))]
    module = place.model.get_submodule(branch.path)
    if branch.channels is None:
        entrance = _Entrance(torch.tensor(1.0 / place.strength))
        handle = module.register_forward_pre_hook(entrance, prepend=True)
    else:
        first, stop, total = branch.channels
        factor = torch.ones(total)
        factor[first:stop] = 1.0 / place.strength
        handle = module.register_forward_hook(_Joined(factor), prepend=True)
    owner = place.path.rpartition("/")[0]
    return Traces(undo=(handle.remove,), roles=(Role.BRANCH,), also=(owner, branch.path))
