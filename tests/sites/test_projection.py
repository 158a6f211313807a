"""Which calls queries and keys belong to, and for how long that is known."""

import gc
import weakref

import pytest
import torch
from torch import nn

from qprobe.quant import convert
from qprobe.sites.projection import Projection, Projections


def cut(y, heads=2):
    q, k, _ = y.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k


@pytest.mark.parametrize("grad", [True, False])
def test_rows_of_a_head_make_that_head(grad):
    layer, x, seen = nn.Linear(8, 24), torch.randn(2, 5, 8), Projections()
    with torch.set_grad_enabled(grad):
        y = layer(x)
        seen.note(layer, x, y)
        q, k = cut(y)
    for call, part in zip(seen.of(q, k), (q, k), strict=True):
        for head in range(2):
            rows = call.rows(part, head)
            made = nn.functional.linear(x, rows.of(call.weight), rows.of(call.bias))
            torch.testing.assert_close(made, part[:, head])


class Conv1D(nn.Module):
    """As transformers has it, square: its shape does not tell how it stores its weight."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))

    def forward(self, x):
        return x @ self.weight


def test_a_weight_that_is_stored_transposed_is_turned():
    layer, x, seen = Conv1D(8), torch.randn(2, 5, 8), Projections()
    y = layer(x)
    seen.note(layer, x, y)
    part = y.unflatten(-1, (2, 4)).transpose(1, 2)
    call = seen.of(part, part)[0]
    for head in range(2):
        made = nn.functional.linear(x, call.rows(part, head).of(call.weight))
        torch.testing.assert_close(made, part[:, head])


@pytest.mark.parametrize("other", [lambda q: q * 0.5, lambda q: q.clone(), torch.randn_like])
def test_what_was_computed_is_no_part(other):
    layer, x, seen = nn.Linear(8, 24), torch.randn(2, 5, 8), Projections()
    y = layer(x)
    seen.note(layer, x, y)
    q, k = cut(y)
    assert seen.of(other(q), k) is None
    assert seen.of(q, other(k)) is None


def test_another_order_of_tokens_has_no_rows():
    layer, x = nn.Linear(8, 24), torch.randn(2, 5, 8)
    q, _ = cut(layer(x))
    call = Projection(input=x, weight=layer.weight, bias=layer.bias)
    assert call.rows(q, 0) is not None
    assert call.rows(q.transpose(0, 2), 0) is None
    assert call.rows(q[:, :, ::2], 0) is None
    assert call.rows(q, 2) is None
    assert call.rows(q[0], 0) is None


def test_nothing_is_kept_alive():
    layer, seen = nn.Linear(8, 24), Projections()
    x = torch.randn(2, 5, 8)
    y = layer(x)
    seen.note(layer, x, y)
    storages = [weakref.ref(x), weakref.ref(y)]
    del x, y
    gc.collect()
    assert [one() for one in storages] == [None, None]
    assert len(seen._calls) == 0


def test_the_recipe_in_force_is_known():
    model, x, seen = nn.Sequential(nn.Linear(8, 24)), torch.randn(2, 5, 8), Projections()
    convert(model, "nvfp4", layers="all")
    y = model(x)
    seen.note(model[0], x, y)
    assert seen.of(*cut(y))[0].setup is model[0].setup


def test_a_weight_that_is_gone_again_is_not_used():
    layer, x, seen = nn.Linear(8, 24), torch.randn(2, 5, 8), Projections()
    with torch.no_grad():
        y = layer(x)
    seen.note(layer, x, y)
    assert seen.of(*cut(y)) is not None
    layer.weight.untyped_storage().resize_(0)  # as sharding does after the layer has run
    assert seen.of(*cut(y)) is None


def test_calls_are_forgotten():
    layer, x, seen = nn.Linear(8, 24), torch.randn(2, 5, 8), Projections()
    y = layer(x)
    seen.note(layer, x, y)
    seen.clear()
    assert seen.of(*cut(y)) is None
