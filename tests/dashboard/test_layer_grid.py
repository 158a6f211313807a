from dataclasses import replace

import pytest

from qprobe.dashboard import layer_grid
from qprobe.dashboard.layer_table import layer_table


@pytest.fixture
def table(library):
    return library.answer(library.run("vit-nvfp4-s0"), layer_table)


def test_a_name_that_is_short_leaves_its_room_to_the_values(table):
    sites = tuple(f"fc{place}" for place in range(len(table.sites)))
    found = [
        layer_grid.columns(replace(table, sites=sites))
        for sites in (sites, table.sites, tuple("x" * 200 + site for site in sites))
    ]
    narrow, fits, wide = (columns[0]["width"] for columns in found)
    assert (narrow, wide) == (100, 260)
    assert fits == 36 + 8 * max(map(len, table.sites))


def test_every_measure_has_a_column_and_its_full_name(table):
    first, *others = layer_grid.columns(table)
    assert first["pinned"] == "left"
    assert [one["headerTooltip"] for one in others] == [one.name for one in table.measures]
