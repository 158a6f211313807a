"""What can be measured of a weight in high precision, without data."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import log, log10

import numpy as np
import torch
from torch import Tensor

from qprobe.analyzers.weights.pieces import starts
from qprobe.analyzers.weights.variants import VARIANTS, Whole, of_inputs, turn
from qprobe.native import Sampled
from qprobe.probes.summary import Summary

#: Elements of an input from which its own SQNR is taken: of fewer, one that becomes zero would
#: decide. Of 8, normal weights come out 0.5 dB low on average and 1.2 dB at the worst of 120 draws.
_FEWEST = 8
#: Beyond these magnitudes float32 cannot hold the squares that every ratio is made of.
_SQUARED = (2.0**-60, 2.0**60)
_KEPT = ("nan", "infinite", "mean", "std", "absmax", "skewness", "kurtosis")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weight:
    """A weight ``[out, in, ...]`` that is read a few outputs at a time."""

    shape: tuple[int, ...]
    #: Outputs from, to, as float32.
    rows: Callable[[int, int], Tensor]

    @property
    def inputs(self) -> int:
        """Elements of one output."""
        return int(torch.Size(self.shape[1:]).numel())

    def pieces(self, limit: int | None = None) -> Iterator[Tensor]:
        """All of it, or tiles of outputs with about ``limit`` elements."""
        for first, stop in starts(self.shape[0], self.inputs, limit):
            yield self.rows(first, stop)


def measure(weight: Weight, limit: int | None) -> Iterator[tuple[str, float]]:
    """Keys and values; with a ``limit`` of elements all but shape and extremes are of a sample."""
    out, inputs = weight.shape[:2]
    yield from (("n", float(out * weight.inputs)), ("out", float(out)), ("in", float(inputs)))
    summary, outputs, dead, largest = _read(weight)
    scalars = {key: float(value) for key, value in summary.scalars().items()}
    yield from ((key, scalars[key]) for key in _KEPT if key in scalars)
    for key, value in scalars.items():
        if key.startswith("channel_kurtosis"):
            yield key.replace("channel", "input"), value
        elif key.startswith("token_kurtosis"):
            yield key.replace("token", "output"), value
    yield "dead_outputs", dead
    if scalars["nan"] or scalars["infinite"] or not _SQUARED[0] < largest < _SQUARED[1]:
        return
    moments = summary.moments()
    energy = moments.m2 + moments.n * moments.mean.square()
    size = (energy / moments.n).sqrt()
    yield "dead_inputs", float((size == 0).sum())
    yield "input_spread", _spread(size)
    yield "output_spread", _spread(outputs)
    yield from _quantized(weight, _whole(weight, largest, size), limit)


def _read(weight: Weight) -> tuple[Summary, Tensor, float, Tensor]:
    """Moments of inputs, root mean square of outputs, how many are zero, largest magnitude."""
    summary = Summary(weight.shape[1])
    largest, dead = torch.zeros(()), 0
    outputs = []
    for piece in weight.pieces():
        summary.observe(piece, 1, measure=Sampled.NOTHING)
        rows = piece.flatten(1)
        outputs.append(rows.square().mean(1).sqrt())
        dead += int((~rows.any(1)).sum())
        lowest, highest = rows.aminmax()
        largest = torch.maximum(largest, torch.maximum(highest, -lowest))
    return summary, torch.cat(outputs), float(dead), largest


def _spread(sizes: Tensor) -> float:
    """How many times the largest is as large as the median, zeros left out."""
    there = sizes[sizes > 0]
    return float(there.max() / there.median())


def _whole(weight: Weight, largest: Tensor, size: Tensor) -> Whole:
    sizes = torch.where(size > 0, size, 1.0).float()
    rotated = even = torch.zeros(())
    for piece in weight.pieces():
        rotated = torch.maximum(rotated, turn(piece).abs().amax())
        even = torch.maximum(even, (piece / of_inputs(sizes, piece)).abs().amax())
    return Whole(largest=largest, largest_rotated=rotated, largest_even=even, input_size=sizes)


def _quantized(weight: Weight, whole: Whole, limit: int | None) -> Iterator[tuple[str, float]]:
    signals: list[Tensor] = []
    noises: Mapping[str, list[Tensor]] = {name: [] for name in VARIANTS}
    lost = dict.fromkeys(VARIANTS, 0)
    there = seen = 0
    for piece in weight.pieces(limit):
        signals.append(_energy(piece))
        here = nonzero(piece)
        there += here
        seen += piece.numel()
        for name, variant in VARIANTS.items():
            values = variant(piece, whole)
            lost[name] += here - nonzero(values)  # zeros stay zero in every format
            noises[name].append(_energy(values.sub_(piece)))
    signal = torch.stack(signals)
    counted = seen // weight.shape[1]
    for name, parts in noises.items():
        noise = torch.stack(parts)
        yield from ((f"{name}.{k}", v) for k, v in _ratios(signal, noise, counted, limit).items())
        yield f"{name}.underflow", lost[name] / there


def nonzero(x: Tensor) -> int:
    """How many elements are not zero; NumPy counts booleans several times as fast as PyTorch."""
    return int(np.count_nonzero((x != 0).numpy()))


def _energy(piece: Tensor) -> Tensor:
    """Sum of squares of each input, float64 ``[in]``."""
    over = (0, *range(2, piece.dim()))
    return piece.square().sum(over).double()


def _ratios(signal: Tensor, noise: Tensor, per_input: int, limit: int | None) -> dict[str, float]:
    """Of energies ``[pieces, in]``: SQNR, SQNR with inputs that count equally, standard error.

    ``sqnr_db`` is what a product keeps if all inputs are equally strong. ``balanced_db`` is what it
    keeps if every input contributes equally, large weights meeting small inputs::

        sqnr_db      10·log10(Σ s_i / Σ e_i)
        balanced_db  −10·log10(mean over i of e_i / s_i)        s_i, e_i: energies of input i

    Outliers hardly lower the first, since they are the signal; the second shows what they hide.
    """
    s, e = float(signal.sum()), float(noise.sum())
    if not e:
        return {}  # exact: no ratio to speak of
    found = {"sqnr_db": 10 * log10(s / e)}
    of_input = signal.sum(0)
    if per_input >= _FEWEST:
        share = (noise.sum(0) / of_input)[of_input > 0].mean()
        found["balanced_db"] = -10 * log10(float(share))
    if limit is not None and len(signal) > 1:
        # Of a ratio of sums over tiles, by its linear part; pieces of a whole weight have none.
        rest = noise.sum(1) - e / s * signal.sum(1)
        error = float(rest.square().sum().mul(len(rest) / (len(rest) - 1)).sqrt()) / e
        found["sqnr_se_db"] = 10 / log(10) * error
    return found
