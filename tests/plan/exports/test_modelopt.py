import json

import pytest
from jsonschema import Draft202012Validator
from sample_plans import TRICKY, layer, tricky_plan, whole
from tool_rules import modelopt_literal as literal
from torch import nn

from qprobe.plan import choose, evidence, keep
from qprobe.plan.exports.modelopt import text

RECIPES = ["nvfp4", "nvfp4-sr", "int8-tensor", "int4-channel-token", "int3-adaptive"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_follows_the_documented_schema(recipe, schemas):
    schema = schemas("modelopt_quant_cfg")
    Draft202012Validator(schema).validate(
        json.loads(json.dumps(literal(text(tricky_plan(recipe)))))
    )


def test_the_schema_sees_a_breach(schemas):
    check = Draft202012Validator(schemas("modelopt_quant_cfg"))
    broken = [
        {"quant_cfg": [{"quantizer_name": "*"}], "algorithm": "max"},
        {"quant_cfg": [{"quantizer_name": "*", "enable": True, "cfg": {}}], "algorithm": "max"},
        {"quant_cfg": {"*": {"enable": False}}, "algorithm": "max"},
    ]
    assert not any(check.is_valid(one) for one in broken)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", RECIPES)
def test_modelopt_quantizes_the_layers_of_the_plan(recipe):
    mtq = pytest.importorskip("modelopt.torch.quantization", exc_type=ImportError)
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in TRICKY))
    records = [*whole(), *(r for at in range(4) for r in layer(str(at), 1024, 0.1 - 0.02 * at))]
    configuration = literal(text(choose(evidence(records), keep("2"), recipe)))
    mtq.quantize(model, configuration | {"algorithm": None})
    on = [one.weight_quantizer.is_enabled and one.input_quantizer.is_enabled for one in model]
    assert on == [False, False, True, True, False, False, False, False]
    assert not any(one.output_quantizer.is_enabled for one in model)


@pytest.mark.filterwarnings("ignore")
def test_nvfp4_is_modelopts_own():
    mtq = pytest.importorskip("modelopt.torch.quantization", exc_type=ImportError)
    config = pytest.importorskip("modelopt.torch.quantization.config").QuantizeConfig
    ours = config(**literal(text(tricky_plan()))).quant_cfg[1]["cfg"]
    preset = config(**mtq.NVFP4_DEFAULT_CFG).quant_cfg[1]["cfg"]
    for field in ("num_bits", "block_sizes", "type"):
        mine, theirs = (getattr(one, field, one.get(field) if isinstance(one, dict) else None) for one in (ours, preset))  # fmt: skip # noqa: E501
        assert mine == theirs, field
