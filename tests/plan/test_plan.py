import pytest
from sample_plans import tricky_plan

from qprobe.errors import InputError
from qprobe.inference import Interval
from qprobe.plan import KeepLayers, Layer, Plan


def test_shares_count_parameters():
    made = tricky_plan(kept=2)
    assert (made.parameters, made.kept_parameters, made.kept_share) == (80, 20, 0.25)


def test_a_measured_score_is_added_to_a_copy():
    made = tricky_plan()
    score = Interval(estimate=0.8, low=0.7, high=0.9, level=0.95, n=3, method="bootstrap")
    assert (made.measured, made.with_measured(score).measured) == (None, score)


def test_a_layer_is_in_one_of_the_two_lists():
    one = (Layer(path="a", parameters=1),)
    with pytest.raises(InputError, match="a is both"):
        Plan(
            recipe="nvfp4", goal=KeepLayers(1), kept=one, quantized=one, score_fp=1.0,
            score_q=0.5, predicted=None,
        )  # fmt: skip


def test_a_model_without_parameters_has_a_share_of_nothing():
    empty = Plan(
        recipe="nvfp4", goal=KeepLayers(1), kept=(), quantized=(), score_fp=1.0, score_q=1.0,
        predicted=None,
    )  # fmt: skip
    assert empty.kept_share == 0.0
