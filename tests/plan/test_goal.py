import pytest

from qprobe.errors import InputError
from qprobe.plan.goal import KeepLayers, KeepShare, Target, keep, target


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("5%", KeepShare(0.05)),
        (" 0.5 % ", KeepShare(0.005)),
        ("100%", KeepShare(1.0)),
        ("7", KeepLayers(7)),
        ("3 layers", KeepLayers(3)),
        ("1layer", KeepLayers(1)),
    ],
)
def test_budgets(text, goal):
    assert keep(text) == goal


@pytest.mark.parametrize(
    "text", ["", "0%", "101%", "-5%", "0", "5,0%", "five", "nan%", "1e1%", "0 layers", "3 of"]
)
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(InputError, match="--keep takes a percentage"):
        keep(text)


@pytest.mark.parametrize("text", ["99", "0.99", "0%", "120%"])
def test_a_target_is_a_percentage(text):
    with pytest.raises(InputError, match="--target takes a percentage"):
        target(text)


def test_goals_say_what_they_are():
    assert str(Target(0.99)) == "at least 99 % of the high-precision score"
    assert str(KeepShare(0.05)) == "at most 5 % of the parameters in high precision"
    assert [str(KeepLayers(n)) for n in (1, 2)] == [
        "at most 1 layer in high precision",
        "at most 2 layers in high precision",
    ]
