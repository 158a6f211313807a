"""How much a step moves a weight, in value and on its quantization grid."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import starmap

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.stats import compensated, pair
from qprobe.stats.additive import Additive, count
from qprobe.stats.missing import known, ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSize(Additive):
    """Sums of squares ``[2]`` of the change and of the weight before it; n elements."""

    n: Tensor
    change: Tensor
    weight: Tensor

    def scalars(self) -> Mapping[str, Tensor]:
        change, weight = compensated.total(self.change), compensated.total(self.weight)
        return {"n": self.n} | known({"update_ratio": (ratio(change, weight).sqrt(), weight != 0)})


def update_size(before: Tensor, after: Tensor) -> UpdateSize:
    """Relative update ``‖w' − w‖ / ‖w‖``, of weights ``[...]`` before and after.

    Merges over parameters and shards to the ratio of the concatenated vectors. Exact; missing where
    w is zero. Changes below the resolution of the dtype are zero: compare master weights.

    Reference: You et al. 2017, "Large batch training of convolutional networks", which keeps this
    ratio equal over layers.

    >>> update_size(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])).scalars()["update_ratio"]
    tensor(0.1000, dtype=torch.float64)
    """
    pair.check(before, after, "a weight before and after")
    return reduce(UpdateSize.merge, starmap(_update_size, pair.pieces(before, after)))


def _update_size(before: Tensor, after: Tensor) -> UpdateSize:
    return UpdateSize(
        n=torch.full((), before.numel(), dtype=torch.int64, device=before.device),
        change=compensated.start((after - before).square().sum()),
        weight=compensated.start(torch.dot(before, before)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeLook:
    """The codes a weight has now, and for each the code it had before its latest change."""

    codes: Tensor
    left: Tensor

    @classmethod
    def first(cls, codes: Tensor) -> "CodeLook":
        """The first look; nothing has changed yet."""
        kept = codes.detach().clone()
        return cls(codes=kept, left=kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeChanges(Additive):
    """Counts over codes and looks, int64."""

    #: Codes that were compared; of these changed; of these back at the code they last left.
    n: Tensor
    flipped: Tensor
    returned: Tensor

    def scalars(self) -> Mapping[str, Tensor]:
        values = {
            "flip_rate": (ratio(self.flipped, self.n), self.n > 0),
            "return_rate": (ratio(self.returned, self.n), self.n > 0),
            "oscillation": (ratio(self.returned, self.flipped), self.flipped > 0),
        }
        return {"n": self.n} | known(values)


def look_again(last: CodeLook, codes: Tensor) -> tuple[CodeLook, CodeChanges]:
    """What changed in a weight's codes since the last look, and the look to compare with next.

    ``codes`` ``[...]`` are integer codes, or the values of codes: E2M1 has two codes for zero,
    which :func:`~qprobe.stats.codes.e2m1_values` makes equal. Over looks, shards and weights::

        flip_rate    share of codes that differ from the last look
        return_rate  share that changed and came back to the code they had left before
        oscillation  the latter as a share of the former; missing where nothing flipped

    A code may rest between leaving and returning. Exact for the looks given; what moves there and
    back between two looks is not seen, so rates depend on the interval and compare at equal
    intervals only. One look holds two copies of the codes.

    Reference: Nagel et al. 2022, "Overcoming oscillations in quantization-aware training"; there a
    change against the direction of the last one counts, here an exact return.

    >>> look, counts = CodeLook.first(torch.tensor([1, 1, 1])), []
    >>> for codes in ([2, 2, 1], [1, 3, 1]):
    ...     look, changes = look_again(look, torch.tensor(codes))
    ...     counts.append((changes.flipped.item(), changes.returned.item()))
    >>> counts
    [(2, 0), (2, 1)]
    """
    if codes.shape != last.codes.shape or codes.dtype != last.codes.dtype:
        raise InputError(
            f"the last look saw {last.codes.dtype} of shape {tuple(last.codes.shape)}, this one "
            f"{codes.dtype} of shape {tuple(codes.shape)}; look at one weight under one recipe."
        )
    now = codes.detach().clone()
    flipped = now != last.codes
    changes = CodeChanges(
        n=torch.full((), now.numel(), dtype=torch.int64, device=now.device),
        flipped=count(flipped),
        returned=count(flipped & (now == last.left)),
    )
    return CodeLook(codes=now, left=torch.where(flipped, last.codes, last.left)), changes
