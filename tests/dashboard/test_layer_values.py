import synthetic_runs

from qprobe.dashboard.layer_values import bars, holder, keys


def test_an_analysis_is_found_from_its_training(library):
    made, values = holder(library, library.run("vit-nvfp4-s0"), "dequantization")
    assert made.name == "vit-nvfp4-s0/analysis"
    assert keys(values) == ["recovery", "sensitivity", "cumulative"]
    (failing,) = [bar for bar in bars(values, "recovery") if bar.site == synthetic_runs.FAILING]
    assert (failing.value, failing.low, failing.high) == (0.55, 0.5, 0.55 + 0.06)
    assert holder(library, library.run("vit-bf16-s0"), "dequantization") is None


def test_a_standard_error_is_an_interval():
    (bar,) = bars({"a": {"trace": 10.0, "trace_se": 1.0}}, "trace")
    assert (bar.low, bar.high) == (8.04, 11.96)
