import pytest
from rounding import numbers, tables


def recipe(error, projection=1.0, **more):
    keys = ("cosine", "noise_ratio", "bias_ratio", "accumulated_ratio")
    return {"error": error, "projection": projection, **dict.fromkeys(keys, 0.1), **more}


def cell(width, seed, phase="late"):
    return {
        "phase": phase,
        "width": width,
        "seed": seed,
        "batch_cosine": 0.1,
        "batch_noise": 0.9,
        "recipes": {
            "bf16": recipe(0.0),
            "gradient-nearest": recipe(0.02, projection=0.98 - 0.001 * seed),
            "gradient-stochastic": recipe(0.03, projection=0.99, draw_variance=0.02),
            "nvfp4-fwd": recipe(0.1),
            # Twice as wide, 0.1 more.
            "nvfp4": recipe(0.1 * (width.bit_length() - 4) + 0.1 * seed),
        },
    }


STORED = {
    "gradient_noise": {
        **{f"late-w{w}-s{s}": cell(w, s) for w in (16, 32, 64) for s in range(3)},
        "train-early-w16-s0": {"test": {}},
    }
}


def test_an_error_that_grows_with_width_has_that_slope():
    found = numbers(STORED)
    assert found["gradient.late.nvfp4.error.slope"].estimate == pytest.approx(0.1)
    assert found["gradient.late.gradient-nearest.error.slope"].estimate == pytest.approx(0.0)
    assert "gradient.init.nvfp4.error.slope" not in found


def test_stochastic_rounding_is_compared_seed_by_seed():
    found = numbers(STORED)["gradient.late-w64.sr-over-nearest.projection"]
    assert found.estimate == pytest.approx(0.011)
    assert found.n == 3


def test_the_share_of_the_forward_pass_is_a_ratio_of_energies():
    one = {"gradient_noise": {f"late-w16-s{s}": cell(16, 0) | {"seed": s} for s in range(2)}}
    assert numbers(one)["gradient.late-w16.forward-share"].estimate == pytest.approx(1.0)


def test_what_was_not_drawn_is_missing():
    found = numbers(STORED)
    assert "gradient.late-w16.gradient-stochastic.draw_variance" in found
    assert "gradient.late-w16.nvfp4.draw_variance" not in found


def test_tables_have_a_cell_for_every_column():
    shown = tables(STORED)
    assert [one.title for one in shown[:3]] == [f"Gradients: late-w{w}" for w in (16, 32, 64)]
    for one in shown:
        assert {len(row) for row in one.rows} <= {len(one.columns)}
    assert tables({})[0].rows == ()
