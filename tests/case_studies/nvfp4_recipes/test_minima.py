import pytest
from minima import numbers, tables


def state(scale, seed, measured):
    layers = [
        {"weight": str(at), "first": 0.0, "second": float(at), "measured": float(at**2)}
        for at in range(6)
    ]
    return {
        "step": 10,
        "loss": 0.9,
        "curvature": {
            "parameters": 100,
            "weights": 80,
            "hessian": {
                "trace": {"estimate": 10.0 * scale},
                "top": [2.0, 1.0],
                "density": {
                    # Of two draws, 0.75 and 0.25 lie within a hundredth of the largest size.
                    "nodes": [[-0.02, 0.01, 2.0], [-2.0, -0.03, 0.0]],
                    "weights": [[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]],
                    "negative_share": {"estimate": 0.1 * scale},
                },
            },
            "normalised": {"trace": {"estimate": 0.1 * scale}, "top": [0.02, 0.01]},
        },
        "along": {
            "gradient_norm": 0.3,
            "along_gradient": 1.0,
            "nvfp4": {"error": 0.1, "along_noise": 0.5, "noise_share": 0.01 * scale},
        },
        "costs": {
            name: {
                "first": -0.001,
                "second": 0.002 * scale,
                "predicted": 0.001 * scale,
                "measured": measured,
            }
            for name in ("nvfp4", "int4-tensor")
        },
        "layers": {"nvfp4": layers, "int4-tensor": layers[:4]},
    }


def stored():
    cells = {}
    for seed in range(3):
        for arch, scale in (("cnn", 1.0), ("swin", 4.0)):
            # What is measured falls as the trace rises.
            measured = 1.0 - 0.01 * (10 * scale + seed)
            cells[f"{arch}-s{seed}"] = {
                "arch": arch,
                "seed": seed,
                "level": state(scale + 0.1 * seed, seed, measured),
                "end": state(scale + 0.1 * seed + 0.01, seed, measured - 0.001),
            }
    return {"curvature": cells}


def test_swin_over_cnn_is_a_ratio_seed_by_seed():
    found = numbers(stored())
    ratio = found["curvature.level.swin-over-cnn.normalised_trace"]
    expected = (4.0 * (4.1 / 1.1) * (4.2 / 1.2)) ** (1 / 3)
    assert ratio.estimate == pytest.approx(expected)
    assert found["curvature.level.cnn.trace_per_parameter"].estimate == pytest.approx(0.11)


def test_the_density_says_how_much_of_the_spectrum_is_flat_or_negative():
    found = numbers(stored())
    assert found["curvature.end.swin.near_zero"].estimate == pytest.approx(0.5)
    assert found["curvature.level.cnn.negative"].estimate == pytest.approx(0.11)


def test_what_may_be_negative_has_a_difference_and_no_ratio():
    found = numbers(stored())
    assert "curvature.level.swin-over-cnn.nvfp4.first" not in found
    assert found["curvature.level.swin-less-cnn.nvfp4.second"].estimate == pytest.approx(6.0 / 0.9)


def test_a_predictor_that_ranks_the_wrong_way_is_seen_to():
    found = numbers(stored())["curvature.rank.nvfp4.normalised_trace"]
    assert found.estimate < -0.9
    assert found.n == 12


def test_layers_are_ranked_within_a_model_and_few_of_them_not_at_all():
    found = numbers(stored())
    assert found["curvature.end.swin.layers.nvfp4"].estimate == pytest.approx(1.0)
    assert "curvature.end.swin.layers.int4-tensor" not in found


def test_tables_show_both_states():
    shown = tables(stored())
    assert [one.title for one in shown[:2]] == ["Curvature, level", "Curvature, end"]
    for one in shown:
        assert {len(row) for row in one.rows} == {len(one.columns)}
    quantities = {row[0] for row in shown[0].rows}
    assert {"normalised_trace", "nvfp4.measured", "int4-tensor.second"} <= quantities
