import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qprobe import records
from qprobe.errors import InputError
from qprobe.records import Column, RunInfo
from qprobe.records.parting import Parting, _relative, parting

#: In the order in which a session names them: by layer, then by role.
LAYERS = ("stem", "blocks.0", "head")
ROLES = ("input", "output", "weight", "grad_output")
COLUMNS = (
    [Column("", "", "training", "loss"), Column("", "", "training", "step_s")]
    + [Column("", "", "dequantization", "passes.race")]
    + [Column(layer, role, "moments", "mean") for layer in LAYERS for role in ROLES]
)


@pytest.fixture
def run(tmp_path: Path):
    """Writes three steps; ``changes`` maps (step, site, role) to another value."""

    def write(name: str, changes=None, columns=COLUMNS, steps=(10, 20, 30)) -> Path:
        path = tmp_path / f"{name}.qprobe"
        with records.create(path, RunInfo(config={}, environment={})) as writer:
            for step in steps:
                for place, column in enumerate(columns):
                    key = (step, column.site, column.role)
                    value = float(step + place)
                    if column.key in ("step_s", "passes.race"):
                        value = float(hash(name) % 97)
                    writer.record(step, column, (changes or {}).get(key, value))
        return path

    return write


def compare(one: Path, two: Path, tolerance: float = 0.0) -> Parting:
    with records.open(one) as first, records.open(two) as second:
        return parting(first, second, tolerance)


def test_equal_runs_do_not_part_and_times_are_not_compared(run):
    found = compare(run("a"), run("b"))
    assert (found.step, found.differences) == (None, ())
    assert (found.compared, found.last_step) == (3 * (len(COLUMNS) - 2), 30)


def test_the_first_layer_of_the_first_step_comes_first(run):
    changes = {
        (30, "stem", "input"): 0.0,  # earlier in the model, later in time
        (20, "head", "output"): 0.0,
        (20, "blocks.0", "output"): 0.0,
        (20, "head", "input"): 0.0,
    }
    found = compare(run("a"), run("b", changes))
    assert found.step == 20
    places = [(one.column.site, one.column.role) for one in found.differences]
    assert places == [("blocks.0", "output"), ("head", "input"), ("head", "output")]


def test_a_step_is_forward_then_the_loss_then_backward_then_the_weights(run):
    changes = {
        (10, "stem", "weight"): 0.0,
        (10, "stem", "grad_output"): 0.0,
        (10, "head", "grad_output"): 0.0,
        (10, "", ""): 0.0,
        (10, "head", "output"): 0.0,
    }
    found = compare(run("a"), run("b", changes))
    assert [(one.column.site, one.column.role) for one in found.differences] == [
        ("head", "output"), ("", ""), ("head", "grad_output"), ("stem", "grad_output"),
        ("stem", "weight"),
    ]  # fmt: skip


def test_a_tolerance_lets_small_differences_pass(run):
    exact = 10.0 + COLUMNS.index(Column("stem", "output", "moments", "mean"))
    changes = {
        (10, "stem", "output"): exact * (1 + 1e-6),
        (20, "head", "output"): -1.0,
    }
    assert compare(run("a"), run("b", changes)).step == 10
    assert compare(run("c"), run("d", changes), tolerance=1e-5).step == 20


def test_what_only_one_of_them_has_is_named_and_not_compared(run):
    found = compare(run("a", columns=COLUMNS[:5]), run("b", columns=COLUMNS[2:]))
    assert found.differences[0].step == 10  # other places, so other values
    assert found.only_first == (COLUMNS[0],)
    assert found.only_second == tuple(COLUMNS[5:])


def test_runs_that_looked_at_other_steps_have_nothing_in_common(run):
    found = compare(run("a", steps=(10, 20)), run("b", steps=(15, 25)))
    assert (found.compared, found.last_step, found.step) == (0, None, None)


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, math.nan])
def test_a_tolerance_that_is_none_is_refused(run, tolerance):
    with pytest.raises(InputError, match="a tolerance is a share from 0 to below 1, got"):
        compare(run("a"), run("b"), tolerance)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (1.0, 1.0, 0.0),
        (0.0, -0.0, 0.0),
        (math.nan, math.nan, 0.0),
        (math.inf, math.inf, 0.0),
        (4.0, 3.0, 0.25),
        (-5.0, 5.0, 2.0),
        (0.0, 5e-324, 1.0),
        (1.7e308, -1.7e308, 2.0),
        (math.nan, 1.0, math.inf),
        (math.inf, -math.inf, math.inf),
        (math.inf, 1.0, math.inf),
    ],
)
def test_a_relative_difference(a, b, expected):
    assert _relative(np.array([a]), np.array([b])).tolist() == [expected]


@given(st.floats(), st.floats())
def test_a_relative_difference_has_no_direction_and_is_a_number(a, b):
    one, two = (_relative(np.array([x]), np.array([y]))[0] for x, y in ((a, b), (b, a)))
    assert one == two
    assert 0 <= one <= 2 or one == math.inf
