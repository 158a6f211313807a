"""Weights that no site is made of: what a session does not see, and has to say so."""

from torch import nn
from torch.nn.utils import parametrize

from qprobe.sites.discover import owners


def unwatched(model: nn.Module) -> dict[str, int]:
    """Trained numbers of modules that belong to no site and whose parameters have two or more axes.

    Such are recurrent layers and experts that are kept in one tensor: nothing tells from outside
    what multiplies them. Only modules without trained ones inside are meant, such as an activation
    function, so neither positions nor tokens that a model adds to what passes.

    >>> unwatched(nn.Sequential(nn.Linear(2, 3), nn.LSTM(2, 3)))
    {'1': 60}
    """
    watched = {owner.module for owner in owners(model)}
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList | nn.MultiheadAttention):
            watched.update(module.modules())
    found: dict[str, int] = {}
    for path, module in model.named_modules():
        inside = (
            child for child in module.children() if next(child.parameters(), None) is not None
        )
        if module in watched or next(inside, None) is not None:
            continue
        own = [p for p in module.parameters(recurse=False) if p.requires_grad and p.dim() > 1]
        if own:
            found[path] = sum(p.numel() for p in own)
    return found
