import numpy as np
import pytest
import torch

from qprobe.errors import InputError
from qprobe.quant import NVFP4, QuantSpec, quantize
from qprobe.stats import CodeLook, e2m1_values, look_again, update_size


def changes_of(looks):
    """The changes between successive looks, each a list of codes."""
    look, found = CodeLook.first(torch.tensor(looks[0])), []
    for codes in looks[1:]:
        look, changes = look_again(look, torch.tensor(codes))
        found.append((changes.flipped.item(), changes.returned.item()))
    return found


def test_a_step_of_one_percent(generator):
    w = torch.randn(30, 20, generator=generator, dtype=torch.float64)
    assert update_size(w, 1.01 * w).scalars()["update_ratio"].item() == pytest.approx(0.01)
    step = torch.randn(30, 20, generator=generator, dtype=torch.float64)
    expected = np.linalg.norm(step) / np.linalg.norm(w)
    assert update_size(w, w + step).scalars()["update_ratio"].item() == pytest.approx(expected)


def test_a_zero_weight_has_no_relative_update():
    zero = torch.zeros(3)
    assert set(update_size(zero, zero).scalars()) == {"n"}
    assert update_size(torch.ones(3), torch.ones(3)).scalars()["update_ratio"].item() == 0.0


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([[1], [1], [1]], [(0, 0), (0, 0)]),
        ([[1], [2], [1]], [(1, 0), (1, 1)]),
        ([[1], [2], [1], [2]], [(1, 0), (1, 1), (1, 1)]),
        ([[1], [2], [3], [1]], [(1, 0), (1, 0), (1, 0)]),  # not the code it left last
        ([[1], [2], [2], [1]], [(1, 0), (0, 0), (1, 1)]),  # with a rest in between
        ([[1, 5], [2, 5], [1, 6]], [(1, 0), (2, 1)]),
    ],
)
def test_histories_by_hand(looks, expected):
    assert changes_of(looks) == expected


def by_history(looks):
    """The same by walking each element's own list of different codes."""
    flipped = returned = 0
    for element in np.asarray(looks).T:
        distinct = [element[0]]
        for code in element[1:]:
            if code != distinct[-1]:
                flipped += 1
                returned += len(distinct) > 1 and code == distinct[-2]
                distinct.append(code)
    return flipped, returned


def test_counts_are_those_of_each_elements_history(generator):
    looks = torch.randint(4, (12, 300), generator=generator).tolist()
    found = np.asarray(changes_of(looks)).sum(0)
    assert tuple(found) == by_history(looks)


def test_rates_merge_over_looks():
    look = CodeLook.first(torch.tensor([1, 1, 1, 1]))
    look, one = look_again(look, torch.tensor([2, 2, 1, 1]))
    _, two = look_again(look, torch.tensor([1, 2, 1, 1]))
    found = one.merge(two).scalars()
    assert found["flip_rate"].item() == 3 / 8
    assert found["return_rate"].item() == 1 / 8
    assert found["oscillation"].item() == pytest.approx(1 / 3)
    assert "oscillation" not in look_again(look, look.codes)[1].scalars()


def test_a_look_keeps_its_own_copy():
    codes = torch.tensor([1, 2])
    look = CodeLook.first(codes)
    codes += 1
    look, changes = look_again(look, codes)
    assert changes.flipped.item() == 2
    codes += 1
    assert look_again(look, codes)[1].flipped.item() == 2


def test_the_sign_of_zero_is_no_flip():
    w = torch.tensor([6.0, 0.01, -0.01])
    before, after = (
        e2m1_values(quantize(x, QuantSpec(format=NVFP4)).codes)
        for x in (w, w * torch.tensor([1.0, -1.0, -1.0]))
    )
    assert look_again(CodeLook.first(before), after)[1].flipped.item() == 0


def test_another_weight_is_refused():
    look = CodeLook.first(torch.zeros(3, dtype=torch.int8))
    with pytest.raises(InputError, match=r"torch.int8 of shape \(3,\), this one torch.int64"):
        look_again(look, torch.zeros(3, dtype=torch.int64))
