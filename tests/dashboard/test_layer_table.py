import numpy as np
import pytest
import synthetic_runs

from qprobe.dashboard.layer_table import layer_table
from qprobe.dashboard.measures import Measure


@pytest.fixture
def table(library):
    return library.answer(library.run("vit-nvfp4-s0"), layer_table)


KURTOSIS = Measure("input", "moments", "kurtosis")
SQNR = Measure("input", "operand_error", "fprop.x.sqnr_db")
COSINE = Measure("grad_output", "gradient_fidelity", "wgrad.cosine")


def test_it_holds_the_last_value_of_every_measure(table, sweep):
    from qprobe import records

    with records.open(sweep / "vit-nvfp4-s0" / "run.qprobe") as run:
        series = run.series("blocks.1.mlp.0", *SQNR)
    assert table.at("blocks.1.mlp.0", SQNR) == series.values[-1]
    assert table.last_step == 100


def test_missing_and_nan_are_two_things(table):
    assert table.at("blocks.5.mlp.2", COSINE) is None
    assert np.isnan(table.at("blocks.0.attn.proj", KURTOSIS))


def test_layers_without_a_value_are_not_shown(table):
    one = next(one for one in table.measures if not table.there[:, table.measures.index(one)].all())
    shown = table.only(table.sites, [one]).measured()
    assert list(shown.sites) == [site for site in table.sites if table.at(site, one) is not None]
    assert 0 < len(shown.sites) < len(table.sites)


def test_heads_and_branches_are_left_out(table):
    assert not [measure for measure in table.measures if measure.key.startswith(("head", "branch"))]


def test_the_failing_layer_is_worst_whichever_way_a_measure_points(table):
    shares = table.shares
    row = table.sites.index(synthetic_runs.FAILING)
    for measure in (SQNR, Measure("input", "moments", "channel_kurtosis_max")):
        assert shares[row, table.measures.index(measure)] == 1.0
    assert table.worst_first[0] == synthetic_runs.FAILING


def test_shares_are_ranks():
    from qprobe.dashboard.layer_table import LayerTable

    values = np.array([[3.0], [1.0], [np.inf], [1.0], [0.0]])
    there = np.array([[True], [True], [True], [True], [False]])
    table = LayerTable(
        sites=tuple("abcde"), measures=(KURTOSIS,), values=values, there=there, last_step=0
    )
    expected = [2 / 3, 0.5 / 3, 1.0, 0.5 / 3, np.nan]
    np.testing.assert_allclose(table.shares[:, 0], expected)


def test_an_earlier_step_has_earlier_values(library):
    run = library.run("vit-nvfp4-s0")
    early = library.answer(run, layer_table, 0)
    assert early.last_step == 0
    assert early.at("blocks.1.mlp.0", SQNR) != library.answer(run, layer_table).at(
        "blocks.1.mlp.0", SQNR
    )
