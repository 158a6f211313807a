import pytest
import torch

from qprobe.errors import InputError
from qprobe.stats import logit_error, softmax_levels


@pytest.fixture
def logits(generator):
    x = torch.randn(2, 3, 4, 5, generator=generator)
    return x, x + 0.1 * torch.randn(x.shape, generator=generator)


@pytest.mark.parametrize("measure", [logit_error, softmax_levels])
def test_heads_looked_at_in_turn_are_all_heads_at_once(logits, measure):
    x, y = (z.softmax(-1) for z in logits)
    whole = measure(x, y).scalars()
    parts = [measure(x[:, [h]], y[:, [h]]).at([h], total=3) for h in (2, 0, 1)]
    turned = parts[0].merge(parts[1]).merge(parts[2]).scalars()
    assert {k: v.item() for k, v in turned.items()} == {k: v.item() for k, v in whole.items()}


def test_the_pooled_value_is_that_of_all_rows(logits):
    x, y = logits
    as_one = logit_error(x.reshape(1, 1, -1, 5), y.reshape(1, 1, -1, 5)).scalars()
    found = logit_error(x, y).scalars()
    for key in ("n", "snr_db", "error_nats", "logit_std"):
        assert found[key].item() == pytest.approx(as_one[key].item(), rel=1e-12)


def test_heads_not_sampled_have_no_key(logits):
    x, y = (z[:, :1] for z in logits)
    found = logit_error(x, y).at([4], total=6).scalars()
    assert {key.split(".")[0] for key in found if "." in key} == {"head4"}


@pytest.mark.parametrize(
    ("heads", "total", "message"),
    [
        ([3, 3, 1], 4, "different numbers from 0 to 3"),
        ([0, 1, 4], 4, "different numbers from 0 to 3"),
        ([0, -1, 2], 4, "different numbers from 0 to 3"),
        ([0, 1], 4, "holds 3 heads and 2 are named"),
    ],
)
def test_heads_that_cannot_be_are_refused(logits, heads, total, message):
    with pytest.raises(InputError, match=message):
        logit_error(*logits).at(heads, total)
