"""Which channels and tokens of a layer's operands are out of line: what to look at, no verdict.

Sizes are ratios to the median, so that they have no unit. The largest is always among what is
chosen: what a layer would be without it can then be asked of every layer, and an even layer answers
that nothing changes.
"""

import torch
from torch import Tensor

from qprobe.quant.ptq.channels import Channels

#: From where on a channel of an input, a token, and the weights of an input channel are out of
#: line; docs/concepts/diagnosis.md has what healthy models show.
CHANNEL, TOKEN, WEIGHT = 7.0, 8.0, 4.0


def outlying_channels(x: Tensor, w: Tensor, channels: Channels) -> Tensor:
    """Input channels of ``x`` or of ``w`` that are out of line: ``[inputs]``, bool.

    A channel that hardly varies may be as large as any, so one of ``x`` has to be out of line by
    its standard deviation and by its largest magnitude.

    >>> x = torch.tensor([[1.0, -1.0, 9.0, 1.0], [-1.0, 1.0, -9.0, -1.0]])
    >>> fc = torch.nn.Linear(4, 2)
    >>> outlying_channels(x, torch.ones(2, 4), Channels.of(fc, "fc"))
    tensor([False, False,  True, False])
    """
    axis = x.dim() - 1 - channels.space
    others = [one for one in range(x.dim()) if one != axis]
    wide = x.double()
    of_x = torch.minimum(
        _beside_median(wide.abs().amax(others)), _beside_median(wide.std(others, correction=0))
    )
    of_w = _beside_median(channels.input_absmax(w.double()))
    sizes = torch.maximum(of_x / CHANNEL, of_w / WEIGHT)
    return (sizes >= 1.0) | (sizes == sizes.amax())


def outlying_tokens(x: Tensor, space: int) -> Tensor:
    """Tokens or voxels of ``x`` that are out of line by their root mean square, channels kept.

    ``space`` is the number of axes behind the channels.

    >>> outlying_tokens(torch.tensor([[1.0, 1.0], [90.0, 1.0], [1.0, -1.0]]), space=0)
    tensor([[False],
            [ True],
            [False]])
    """
    axis = x.dim() - 1 - space
    sizes = _beside_median(x.double().square().mean(axis, keepdim=True).sqrt())
    return (sizes >= TOKEN) | (sizes == sizes.amax())


def _beside_median(sizes: Tensor) -> Tensor:
    return sizes / sizes.median().clamp(min=torch.finfo(sizes.dtype).tiny)
