import pytest

from qprobe.analyzers.base import ANALYZERS
from qprobe.analyzers.depth import RESUMABLE, Depth, chosen, made
from qprobe.analyzers.dequantization import QUICK
from qprobe.errors import InputError
from qprobe.records import Record


def test_nobody_is_left_out_without_a_reason():
    for depth in Depth:
        asked, left = chosen(depth)
        assert sorted([*asked, *left]) == sorted(ANALYZERS.names())
        assert all(left.values())


def test_what_takes_minutes_is_asked_by_name_or_thoroughly():
    assert "--thorough" in chosen(Depth.NORMAL)[1]["curvature"]
    assert chosen(Depth.THOROUGH)[0][-1] == "curvature"
    assert chosen(Depth.QUICK, only=["curvature"])[0] == ["curvature"]


def test_quick_screens_and_reads_weights():
    assert set(chosen(Depth.QUICK)[0]) == {"dequantization", "recipes", "weights"}


def test_only_and_skip():
    asked, left = chosen(Depth.NORMAL, only=["weights", "outliers"])
    assert (asked, left["fusion"]) == (["weights", "outliers"], "not among --only")
    assert chosen(Depth.NORMAL, skip=["weights"])[1]["weights"] == "skipped as asked"
    with pytest.raises(InputError, match="outliers is in --only and in --skip"):
        chosen(Depth.NORMAL, only=["outliers"], skip=["outliers"])
    with pytest.raises(InputError, match="did you mean 'outliers'"):
        chosen(Depth.NORMAL, skip=["outlier"])


def test_the_depth_reaches_the_analyzers_that_have_one():
    known = [Record("", 0, "fc", "", "dequantization", "recovery", 1.0)]
    quick = made("dequantization", Depth.QUICK, known)
    assert quick.search == QUICK
    assert quick.name in RESUMABLE
    assert made("outliers", Depth.QUICK, []) is ANALYZERS.get("outliers")
    assert made("weights", Depth.QUICK, []).depth == "quick"
    assert made("weights", Depth.NORMAL, []).depth == "full"
