import synthetic_runs

from qprobe import records
from qprobe.dashboard.family import detail_of, family, holder, table_of
from qprobe.dashboard.layer_table import layer_table
from qprobe.dashboard.library import Library
from qprobe.dashboard.measures import RECOVERY, Measure

KURTOSIS = Measure("input", "moments", "kurtosis")


def names(library, run):
    return [one.name for one in family(library, library.run(run))]


def test_a_training_and_its_analysis_find_each_other(library):
    assert names(library, "vit-nvfp4-s0") == ["vit-nvfp4-s0", "vit-nvfp4-s0/analysis"]
    assert names(library, "vit-nvfp4-s0/analysis") == ["vit-nvfp4-s0/analysis", "vit-nvfp4-s0"]
    assert names(library, "vit-bf16-s0") == ["vit-bf16-s0"]


def test_analyses_of_one_training_know_of_each_other(tmp_path):
    path = synthetic_runs.training(tmp_path / "a" / "run.qprobe", full=False)
    with records.open(path) as run:
        source = run.meta.run
    for name in ("one", "two"):
        synthetic_runs.analysis(tmp_path / f"{name}.qprobe", source)
    assert set(names(Library([tmp_path]), "two")) == {"two", "a", "one"}


def test_analyses_that_found_the_gravest_come_first(tmp_path):
    path = synthetic_runs.training(tmp_path / "a" / "run.qprobe", full=False)
    with records.open(path) as run:
        source = run.meta.run
    synthetic_runs.analysis(tmp_path / "grave.qprobe", source)
    calm = records.RunInfo(config={}, environment={}, recipe="nvfp4", source=f"- {source}")
    with records.create(tmp_path / "calm.qprobe", calm):
        pass
    assert names(Library([tmp_path]), "a") == ["a", "grave", "calm"]


def test_layers_have_what_the_training_and_the_analysis_measured(library):
    run = library.run("vit-nvfp4-s0")
    table, own = table_of(library, run), library.answer(run, layer_table)
    assert table.at(synthetic_runs.FAILING, RECOVERY) == 0.055
    assert table.at("blocks.1.mlp.0", KURTOSIS) == own.at("blocks.1.mlp.0", KURTOSIS)
    assert set(table.sites) == set(synthetic_runs.layers())
    assert table.worst_first[0] == synthetic_runs.FAILING
    keys = {column.key for column in detail_of(library, run, synthetic_runs.FAILING).series}
    assert {"recovery", "kurtosis"} <= keys


def test_an_analysis_is_found_from_its_training(library):
    made, _ = holder(library, library.run("vit-nvfp4-s0"), "dequantization")
    assert made.name == "vit-nvfp4-s0/analysis"
    assert holder(library, library.run("vit-bf16-s0"), "dequantization") is None
