"""Put the weights of a checkpoint into a model, or say by name what does not fit."""

import torch
from torch import Tensor, nn

from qprobe.checkpoints.checkpoint import Checkpoint
from qprobe.checkpoints.legible import legible
from qprobe.checkpoints.packed import PackedWeight
from qprobe.errors import InputError

#: How many names a message lists.
_NAMED = 4


def load_into(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load every weight and buffer of ``model``, packed ones decoded; all fit or none is loaded.

    Names have to agree exactly: what is missing, left over or of another shape is named.
    """
    target = model.state_dict(keep_vars=True)
    wanted = {name: tensor for name, tensor in target.items() if isinstance(tensor, Tensor)}
    missing = sorted(wanted.keys() - checkpoint.weights.keys())
    if missing:
        raise InputError(
            f"{checkpoint.path} lacks {_list(missing)} of the model; is it of another?"
        )
    extra = sorted(checkpoint.weights.keys() - wanted.keys())
    if extra:
        raise InputError(f"the model has no {_list(extra)} of {checkpoint.path}; is it of another?")
    wrong = [
        f"{name} {list(shape)} where the model has {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if (shape := checkpoint.weights[name].shape or _packed_shape(checkpoint, name))
        != tuple(tensor.shape)
    ]
    if wrong:
        raise InputError(f"{checkpoint.path} has {_list(wrong)}; is it of another size?")
    with torch.no_grad():
        for name, tensor in wanted.items():
            stored = checkpoint.read(name)
            tensor.copy_(stored.values() if isinstance(stored, PackedWeight) else stored)


def _packed_shape(checkpoint: Checkpoint, name: str) -> tuple[int, ...]:
    stored = checkpoint.read(name)
    return tuple(stored.shape)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(legible, names[:_NAMED])) + more
