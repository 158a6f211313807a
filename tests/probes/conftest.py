"""Views of the sites of a model, as a probe gets them in one training step."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qprobe.probes.base import SiteView
from qprobe.probes.summary import Summary, TokenSample
from qprobe.records.schema import Role
from qprobe.sites import Capture, Site, discover

Views = dict[Role, SiteView]


def _axis(site: Site, tensor: Tensor) -> int:
    if site.kind == "linear":
        return -1
    return tensor.dim() - site_space(site) - 1 if site.role is not Role.WEIGHT else 1


def site_space(site: Site) -> int:
    return int(site.kind[-2])


@pytest.fixture
def look() -> Callable[..., Views]:
    """Run a layer once, forward and backward: what each of its sites saw."""

    def run(layer: nn.Module, x: Tensor, dy: Tensor | None = None, **given: object) -> Views:
        seen: dict[Site, Tensor] = {}
        with Capture(layer, discover(layer), lambda s, t: seen.update({s: t.clone()})) as capture:
            y = layer(x)
            if y.requires_grad:
                y.backward(torch.ones_like(y) if dy is None else dy)
            capture.read_weights()
        tensors = {site.role: tensor for site, tensor in seen.items()}
        return {
            site.role: SiteView(
                site=site, module=layer, tensors=tensors, axis=_axis(site, tensor), **given
            )
            for site, tensor in seen.items()
        }

    return run


@pytest.fixture
def summed() -> Callable[..., SiteView]:
    """The view of a window in which the tensors given were seen, every token of them."""

    def of(*tensors: Tensor, axis: int = -1, every: int = 1) -> SiteView:
        summary = Summary(tensors[0].shape[axis])
        for tensor in tensors:
            summary.observe(tensor, axis, sample=TokenSample(every=every))
        site = Site("fc", Role.INPUT, "linear")
        return SiteView(site=site, module=None, summary=summary, axis=axis)

    return of
