"""Which axis of a tensor holds the channels."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.sites.own_forward import OWN

_SECOND = (_NormBase, nn.GroupNorm, nn.LocalResponseNorm)


def channel_axis(site: Site, module: nn.Module | None, dims: int) -> int:
    """The axis of channels in a tensor of ``dims`` dimensions at ``site``, negative.

    Convolutions and the norms that go with them have channels before their positions, with or
    without an axis for the batch; everything else has them last. A weight's channels are those of
    the layer's input, along which its products sum. What is computed between modules, with four or
    more dimensions, is taken for images with channels second.

    >>> conv = nn.Conv2d(3, 8, 3)
    >>> channel_axis(Site("", Role.INPUT, "conv2d"), conv, 4)
    -3
    >>> channel_axis(Site("", Role.WEIGHT, "conv_transpose2d"), nn.ConvTranspose2d(3, 8, 2), 4)
    -4
    >>> channel_axis(Site("", Role.INPUT, "linear"), nn.Linear(3, 8), 3)
    -1
    """
    kind = site.kind.removeprefix(OWN)
    if kind.startswith("conv"):
        spatial = int(kind[-2])
        if site.role in (Role.WEIGHT, Role.GRAD_WEIGHT) and "transpose" in kind:
            return -spatial - 2
        return -spatial - 1
    if site.role in (Role.WEIGHT, Role.GRAD_WEIGHT, Role.ATTN_LOGITS, Role.ATTN_PROBS):
        return -1
    images = site.role is Role.BRANCH or site.kind == "tap"
    if dims >= (4 if images else 3) and (images or _before_positions(module)):
        return 1 - dims
    return -1


def _before_positions(module: nn.Module | None) -> bool:
    """Whether a norm has its channels on the second axis."""
    return isinstance(module, _SECOND) or type(module).__name__.endswith(("Norm2d", "Norm3d"))
