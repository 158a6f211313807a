import json

import pytest
from sample_plans import layer, whole
from torch import nn

from qprobe.plan import choose, evidence, keep
from qprobe.plan.exports.torchao import text

RECIPES = ["nvfp4", "nvfp4-2d-rht-sr", "int8-tensor", "int8-channel-token", "int8-adaptive"]


def made(recipe):
    records = [*whole(), *(r for at in range(3) for r in layer(f"0.{at}", 1024, 0.1 - 0.02 * at))]
    return choose(evidence(records), keep("1"), recipe)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", RECIPES)
def test_torchao_reads_it(recipe):
    config = pytest.importorskip("torchao.core.config")
    read = config.config_from_dict(json.loads(text(made(recipe))))
    assert list(read.fqn_to_config) == ["0.0", "0.1", "0.2"]
    assert read.fqn_to_config["0.0"] is None
    expected = "NVFP4Dynamic" if recipe.startswith("nvfp4") else "Int8Dynamic"
    assert type(read.fqn_to_config["0.1"]).__name__.startswith(expected)
    if recipe.startswith("int8"):
        row = type(read.fqn_to_config["0.1"].granularity).__name__
        assert row == ("PerTensor" if recipe == "int8-tensor" else "PerRow")


@pytest.mark.filterwarnings("ignore")
def test_torchao_quantizes_the_layers_of_the_plan():
    config = pytest.importorskip("torchao.core.config")
    from torchao.quantization import quantize_

    model = nn.Sequential(nn.Sequential(*(nn.Linear(32, 32) for _ in range(3))), nn.Linear(32, 8))
    quantize_(model, config.config_from_dict(json.loads(text(made("int8-channel-token")))), None)
    kinds = [type(one.weight).__name__ for one in [*model[0], model[1]]]
    assert kinds == ["Parameter", "Int8Tensor", "Int8Tensor", "Parameter"]
