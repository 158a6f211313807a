"""Sets of layers, measured whole and in two halves: an interruption changes no answer."""

import pytest
import torch
from analyzers.patients import subject

from qprobe.analyzers.dequantization import Bounds, Dequantization, Mode, Search
from qprobe.analyzers.dequantization.emit import Measured
from qprobe.models import build
from qprobe.quant import convert, recipe

SETS = Search(
    mode=Mode.EXHAUSTIVE, operands=False, agreement=0, cumulative=4, sensitivity=False, gradients=2
)
DRAWS = Bounds(draws=200)
KEYS = ("cumulative", "cumulative.left", "kind.cumulative", "lost_decrease")


@pytest.fixture(scope="module")
def patient():
    torch.manual_seed(0)
    model = build("cnn", "tiny", image=32).eval()
    convert(model, "int4-tensor", layers="all")
    drawn = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(4, 3, 32, 32, generator=drawn), torch.randn(4, 1, 32, 32, generator=drawn))
        for _ in range(2)
    ]
    return subject(model, batches, recipe("int4-tensor"))


@pytest.fixture(scope="module")
def whole(patient):
    return list(Dequantization(SETS, DRAWS).measure(patient))


def answers(records):
    measured = Measured(records)
    return {key: {(e.site, e.role, e.step, e.interval) for e in measured.entries(key)}
            for key in KEYS}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "number"),
    [("cumulative.n", 1), ("cumulative.left.n", 1), ("cumulative.left.n", 2),
     ("kind.cumulative.n", 1), ("lost_decrease.n", 3)],
)  # fmt: skip
def test_an_interruption_within_a_stage_loses_nothing(patient, whole, key, number):
    cut = [at for at, one in enumerate(whole) if one.key == key][number - 1] + 1
    known = whole[:cut]
    rest = list(Dequantization(SETS, DRAWS, known=known).measure(patient))
    assert answers([*known, *rest]) == answers(whole)
    assert all(answers(whole).values())


def test_what_was_measured_is_not_measured_again(patient, whole):
    rest = list(Dequantization(SETS, DRAWS, known=whole).measure(patient))
    assert not {one.key for one in rest} & set(KEYS)
