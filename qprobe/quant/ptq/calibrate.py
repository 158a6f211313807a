"""What transforms need to know about activations: the largest magnitude of each channel."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.quant.ptq.applied import layer_at
from qprobe.quant.ptq.channels import Channels


def input_amax(
    model: nn.Module, paths: Iterable[str], run: Callable[[], object]
) -> dict[str, Tensor]:
    """The largest magnitude of every input channel of the layers ``paths`` while ``run()`` runs.

    ``run`` calls the model on as many batches as the calibration has, in the mode that counts; it
    is called once, without gradients. One number a channel is kept, whatever the batches' size.
    A layer that ``run`` never calls is an error.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> input_amax(model, ["0"], lambda: model(torch.tensor([[1.0, -3.0], [2.0, 0.5]])))
    {'0': tensor([2., 3.])}
    """
    found: dict[str, Tensor] = {}
    handles = []
    for path in dict.fromkeys(paths):
        layer = layer_at(model, path)
        look = _look(path, Channels.of(layer, path), found)
        handles.append(layer.register_forward_pre_hook(look))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    if missing := [path for path in dict.fromkeys(paths) if path not in found]:
        raise InputError(f"{missing[0]} was not called on the calibration batches; run those.")
    return found


def _look(
    path: str, channels: Channels, found: dict[str, Tensor]
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def look(_: nn.Module, args: tuple[Any, ...]) -> None:
        axis = args[0].dim() - 1 - channels.space
        others = [a for a in range(args[0].dim()) if a != axis]
        amax = args[0].detach().abs()
        amax = amax.amax(others) if others else amax
        found[path] = torch.maximum(found[path], amax) if path in found else amax

    return look
