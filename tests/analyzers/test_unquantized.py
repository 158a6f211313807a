"""Models without a quantized layer: each is told why, and what would help."""

import pytest
import torch
from torch import nn

import qprobe
from qprobe.analyzers.scores import Accuracy
from qprobe.analyzers.unquantized import check_quantized
from qprobe.errors import InputError

ADVICE = "name a recipe"


class Tokens(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(8, 4), nn.LayerNorm(4))


class Bare(nn.Module):
    pass


NOTHING = {
    "tokens": (Tokens(), r"no layer that a recipe quantizes \(0: embedding\); give a model"),
    "attention": (nn.MultiheadAttention(8, 2), r"its projections are used without calling them"),
    "empty": (Bare(), "no layer that a recipe quantizes; give a model"),
    "recurrent": (nn.LSTM(4, 4), "the model itself: recurrent kernels are fused"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_no_recipe_can_take_is_told_by_what_it_is(name):
    model, said = NOTHING[name]
    for conversion in (None, qprobe.convert(model, "nvfp4", layers="all")):
        with pytest.raises(InputError, match=said) as raised:
            check_quantized(model, "mine", ADVICE, conversion)
        assert ADVICE not in str(raised.value)  # a recipe would not help


def test_a_model_that_was_not_converted_is_told_how_and_stays_as_it_is():
    model = nn.Sequential(nn.Linear(4, 4), nn.Embedding(8, 4))
    with pytest.raises(InputError, match="mine has no quantized layer; name a recipe"):
        check_quantized(model, "mine", ADVICE)
    assert type(model[0]) is nn.Linear
    assert not hasattr(model[0], "setup")


def test_a_recipe_that_leaves_all_alone_says_why():
    model = nn.Sequential(nn.Linear(4, 4))
    conversion = qprobe.convert(model, "nvfp4")
    with pytest.raises(InputError, match=r"nvfp4 leaves .* \(0: first layer\); .* --layers all"):
        check_quantized(model, "mine", ADVICE, conversion)


def test_one_quantized_layer_is_enough():
    model = nn.Sequential(nn.Linear(4, 4), nn.Embedding(8, 4))
    qprobe.convert(model, "nvfp4", layers="all")
    check_quantized(model, "mine", ADVICE)


def test_in_python_it_is_told_too():
    batches = [(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long))]
    subject = qprobe.Subject(
        model=Tokens(), recipe=qprobe.recipe("nvfp4"), batches=lambda: batches,
        loss=lambda output, batch: output.mean((1, 2)), score=Accuracy(),
    )  # fmt: skip
    with pytest.raises(InputError, match="no layer that a recipe quantizes"):
        qprobe.analyze(subject)
