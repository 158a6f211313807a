"""Views of single sites, as a capture of one training step shows them."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from qprobe.probes.base import SiteView
from qprobe.records.schema import Role
from qprobe.sites import Capture, Site, discover, trace


def one_step(model: nn.Module, x: Tensor) -> dict[Site, Tensor]:
    """What every site of every module saw in one forward and backward pass."""
    return _captured(model, x, discover(model), None)


def branches(model: nn.Module, x: Tensor) -> dict[Site, Tensor]:
    """The gradients at all branches."""
    found = trace(model, x)
    sites = [site for fusion in found.fusions for site in fusion.sites]
    return _captured(model, x, sites, found)


def _captured(model, x, sites, found):
    seen: dict[Site, Tensor] = {}
    for parameter in model.parameters():
        parameter.grad = None
    with Capture(model, sites, lambda s, t: seen.update({s: t.clone()}), trace=found) as capture:
        out = model(x)
        # Another weight for each element, so that no gradient is constant.
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        capture.read_weights()
    return seen


def view(
    model: nn.Module, seen: dict[Site, Tensor], path: str, role: Role, **given: object
) -> SiteView:
    """The view of one site, with everything else that the same module saw."""
    site = next(one for one in seen if one.path == path and one.role is role)
    tensors = {one.role: tensor for one, tensor in seen.items() if one.path == path}
    module = model.get_submodule(path)
    axis = 1 if site.kind.startswith("conv") else -1
    found = SiteView(site=site, module=module, tensors=tensors, axis=axis)
    return replace(found, **given)
