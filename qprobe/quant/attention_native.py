"""Attention as it is by one C kernel, for evaluation.

PyTorch's own takes a block of queries and keys at a time, of whatever size, which for windows of
few tokens is several times what the arithmetic takes.
"""

import ctypes

import torch
from torch import Tensor

from qprobe import native

#: Samples, heads, tokens, channels.
_AXES = 4


def usable(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> bool:
    """Whether the kernel is there and takes these.

    Tensors that dispatch for themselves (fake, functional, distributed) have no memory to point to.
    """
    given = [q, k, v] if bias is None else [q, k, v, bias]
    return (
        native.kernels is not None
        and native.kernels.attends()
        and all(_readable(x) for x in given)
        and q.dim() == k.dim() == v.dim() == _AXES
        and q.shape[:2] == k.shape[:2] == v.shape[:2]
        and k.shape[2] == v.shape[2]
        and q.shape[3] == k.shape[3]
    )


def _readable(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """``softmax(q·kᵀ·scale + bias)·v``, heads of a token side by side in memory."""
    (batch, heads, queries, depth), (keys, width) = q.shape, v.shape[2:]
    q, k, v = (_dense(x) for x in (q, k, v))
    added = None
    if bias is not None:
        added = _dense(bias.expand(batch, heads, queries, keys))
    out = q.new_empty(batch, queries, heads, width).transpose(1, 2)
    kernels = native.require()
    scratch = q.new_empty(kernels.attend_scratch(keys, depth))
    given = native.Attending(
        q=_tokens(q),
        k=_tokens(k),
        v=_tokens(v),
        out=_tokens(out),
        batch=batch,
        heads=heads,
        queries=queries,
        keys=keys,
        depth=depth,
        width=width,
        scale=scale,
        scratch=scratch.data_ptr(),
    )
    if added is not None:
        given.bias = _tokens(added)
    kernels.attend(ctypes.byref(given))
    return out


def _dense(x: Tensor) -> Tensor:
    """The same with channels side by side, as they nearly always are."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _tokens(x: Tensor) -> native.Tokens:
    sample, head, token, _ = x.stride()
    return native.Tokens(first=x.data_ptr(), sample=sample, head=head, token=token)
