import pytest
from cell import Cell, closure, enumerate_cells, hashes
from protocol import RECIPES
from run import STAGES

from qprobe.engine import TrainConfig
from qprobe.errors import InputError


def cell(key, needs=(), **settings):
    return Cell(stage="s", key=key, settings=settings, needs=needs, estimate_s=1.0)


def by_name(*cells):
    return {one.name: one for one in cells}


def test_every_cell_of_the_study_has_a_name_of_its_own_and_needs_that_exist():
    for scale in ("cpu", "gpu"):
        cells = enumerate_cells(STAGES, scale)
        assert set(hashes(cells)) == set(cells)
        assert {need for one in cells.values() for need in one.needs} <= cells.keys()
    assert "grid/swin-tiny-nvfp4-2d-rht-sr-s4" in enumerate_cells(["grid"], "cpu")
    assert len(enumerate_cells(["grid"], "cpu")) == 3 * 8 * 5


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_every_training_can_be_asked_for_and_no_two_are_the_same(scale):
    trainings = {
        name: TrainConfig.of(cell.settings["config"])
        for name, cell in enumerate_cells(STAGES, scale).items()
        if "config" in cell.settings
    }
    assert len({config.hash for config in trainings.values()}) == len(trainings)
    assert {config.recipe for config in trainings.values()} == set(RECIPES)


def test_recipes_of_one_seed_differ_in_nothing_else():
    cells = enumerate_cells(["grid"], "cpu")
    plain = cells["grid/vit-tiny-bf16-s3"].settings["config"]
    other = cells["grid/vit-tiny-nvfp4-sr-s3"].settings["config"]
    assert {**plain, "recipe": "nvfp4-sr"} == other


def test_a_hash_is_of_the_settings_and_of_what_they_rest_on():
    plain = hashes(by_name(cell("a", lr=1), cell("b", ("s/a",))))
    same = hashes(by_name(cell("b", ("s/a",)), cell("a", lr=1)))
    other = hashes(by_name(cell("a", lr=2), cell("b", ("s/a",))))
    assert plain == same
    assert plain["s/a"] != other["s/a"]
    assert plain["s/b"] != other["s/b"]  # its checkpoint is another one


def test_a_need_that_nobody_has_is_named():
    with pytest.raises(InputError, match="s/b needs s/missing"):
        hashes(by_name(cell("b", ("s/missing",))))


def test_closure_reaches_through_needs():
    cells = by_name(cell("a"), cell("b", ("s/a",)), cell("c", ("s/b",)), cell("d"))
    assert closure(["s/c"], cells) == {"s/a", "s/b", "s/c"}


def test_an_unknown_scale_is_refused():
    with pytest.raises(InputError, match="cpu, gpu"):
        enumerate_cells(["grid"], "tpu")
