from dataclasses import fields

import pytest

from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import grid, split_axes
from qprobe.errors import InputError


def test_every_combination_is_there_once_with_recipes_fastest():
    cells = grid(
        TrainConfig(), {"recipe": ["bf16", "nvfp4"], "arch": ["vit", "cnn"], "seed": [0, 1]}
    )
    assert [(cell.arch, cell.seed, cell.recipe) for cell in cells] == [
        ("vit", 0, "bf16"), ("vit", 0, "nvfp4"), ("vit", 1, "bf16"), ("vit", 1, "nvfp4"),
        ("cnn", 0, "bf16"), ("cnn", 0, "nvfp4"), ("cnn", 1, "bf16"), ("cnn", 1, "nvfp4"),
    ]  # fmt: skip


def test_the_order_does_not_depend_on_the_order_of_the_axes():
    axes = {"fold": [0, 1], "recipe": ["bf16", "nvfp4"], "size": ["tiny", "500k"], "seed": [3, 4]}
    there = grid(TrainConfig(), axes)
    back = grid(TrainConfig(), dict(reversed(axes.items())))
    assert there == back
    assert len(there) == 16


def test_cells_of_one_seed_and_fold_differ_in_the_recipe_only():
    cells = grid(TrainConfig(lr=1e-3), {"recipe": ["bf16", "nvfp4"], "seed": [0, 1]})
    for bf16, nvfp4 in zip(cells[::2], cells[1::2], strict=True):
        differing = [
            field.name
            for field in fields(TrainConfig)
            if getattr(bf16, field.name) != getattr(nvfp4, field.name)
        ]
        assert differing == ["recipe"]


def test_the_same_training_is_one_cell_however_it_is_said():
    # Adamax is what the CNN has by default.
    cells = grid(TrainConfig(), {"optimizer": ["adamax", "sgd"], "seed": [0, 0]})
    assert [cell.optimizer for cell in cells] == ["adamax", "sgd"]
    assert len(grid(TrainConfig(), {"lr": [5e-4, None]})) == 1


def test_values_may_be_ranges_and_tables_and_the_base_stays():
    base = TrainConfig(data_options=(("setting", "hard"),), epochs=7)
    cells = grid(base, {"seed": range(3), "model": [{"dropout": 0.0}]})
    assert [cell.seed for cell in cells] == [0, 1, 2]
    assert {cell.model for cell in cells} == {(("dropout", 0.0),)}
    assert {(cell.epochs, cell.data_options) for cell in cells} == {(7, (("setting", "hard"),))}


def test_without_axes_there_is_one_cell():
    assert grid(TrainConfig(seed=4), {}) == [TrainConfig(seed=4)]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"recipes": ["bf16"]}, "a sweep cannot vary 'recipes'; a training has the settings arch"),
        (
            {"recipe": "bf16"},
            r"recipe of a sweep is a list .*, got 'bf16'; write \['bf16'\]",
        ),
        ({"seed": 3}, r"got 3; write \[3\]"),
        ({"seed": []}, "seed of a sweep is an empty list"),
        ({"seed": ["x"]}, "seed is of type int, got 'x'"),
        ({"fold": [5]}, "fold counts from 0 to 4"),
    ],
)
def test_what_is_no_axis_is_refused(axes, message):
    with pytest.raises(InputError, match=message):
        grid(TrainConfig(), axes)


def test_a_file_without_lists_is_one_training():
    assert split_axes({"epochs": 3}, "my.toml") == ({"epochs": 3}, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sweep": 3}, "my.toml has sweep = 3; make it a table"),
        ({"seed": 1, "sweep": {"seed": [1]}}, "my.toml sets 'seed' both at the top and in"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        split_axes(given, "my.toml")
