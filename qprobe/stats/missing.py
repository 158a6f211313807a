"""A value that does not exist has no key.

States keep sums and counts; a ratio without a denominator is *missing*, which is neither zero nor
NaN. On tensors that hold one value a head, a missing head is NaN, because a tensor has no other way
to say so; in the scalars of a state it has no key at all. A NaN that stands under a key came out
of the data.

Looking whether a value exists reads it: on a GPU that waits for the device, so a state is copied to
the host before its scalars are asked for. Its fields are tensors and nothing else.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def known(values: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Of ``{key: (value, exists)}``, both without axes, the values that exist.

    >>> yes, no = torch.tensor(True), torch.tensor(False)
    >>> known({"kept": (torch.tensor(2.0), yes), "left_out": (torch.tensor(0.0), no)})
    {'kept': tensor(2.)}
    """
    return {key: value for key, (value, exists) in values.items() if bool(exists)}


def known_heads(
    key: str, values: Tensor, exists: Tensor, numbers: Sequence[int]
) -> dict[str, Tensor]:
    """The same for values a head ``[heads]``, under ``head3.key``, 3 being the head's number.

    >>> known_heads("snr_db", torch.tensor([20.0, 0.0]), torch.tensor([True, False]), [3, 4])
    {'head3.snr_db': tensor(20.)}
    """
    places = zip(numbers, exists.tolist(), values, strict=True)
    return {f"head{head}.{key}": value for head, known, value in places if known}


def ratio(over: Tensor, under: Tensor) -> Tensor:
    """``over / under`` in float64, NaN where the denominator is zero."""
    wide = under.double()
    missing = torch.full_like(wide, torch.nan)
    return torch.where(wide != 0, over.double() / torch.where(wide != 0, wide, 1.0), missing)


def decibels(signal: Tensor, noise: Tensor) -> Tensor:
    """``10·log10(signal / noise)``: +inf without noise, −inf without signal, NaN without both.

    >>> zero, one = torch.tensor(0.0), torch.tensor(1.0)
    >>> [decibels(a, b).item() for a, b in ((one * 100, one), (one, zero), (zero, one))]
    [20.0, inf, -inf]
    """
    return 10.0 * (signal.double().log10() - noise.double().log10())
