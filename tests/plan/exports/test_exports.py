"""Every tool, by its own rule of matching, touches exactly the layers of the plan."""

import pytest
from sample_plans import TRICKY, tricky_plan
from tool_rules import RULES

from qprobe.errors import InputError
from qprobe.plan import Tool, export

#: Layers of the model that are in no plan, near in name to those that are.
STRANGERS = (
    "a.bbb",
    "a.b.c",
    "model.a",
    "a0.bx",
    "a[0].bx",
    "blocks.1.fc1",
    "x{2}+(y)",
    "xa.b",
    "re:xx",
    "LinearX",
)


@pytest.mark.parametrize("tool", list(Tool))
@pytest.mark.parametrize("kept", [4, 8])
def test_exactly_the_layers_of_the_plan(tool, kept):
    plan = tricky_plan(kept=kept)
    found = RULES[tool](export(plan, tool), TRICKY + STRANGERS)
    quantized = {layer.path for layer in plan.quantized}
    if tool is Tool.TE:  # says only which layers are left out of the script's recipe
        quantized |= set(STRANGERS)
    assert {name for name, on in found.items() if on} == quantized


def test_the_rules_see_a_pattern_that_is_not_escaped():
    text = '"a[0].b*" = "nvfp4"'
    assert RULES["qprobe"](text, ("a[0].b*", "a0.bx")) == {"a[0].b*": False, "a0.bx": True}


def test_a_model_that_keeps_nothing():
    plan = tricky_plan(kept=4)
    none = type(plan)(
        recipe="nvfp4", goal=plan.goal, kept=(), quantized=plan.kept, score_fp=1.0, score_q=1.0,
        predicted=None,
    )  # fmt: skip
    names = tuple(layer.path for layer in plan.kept)
    for tool in Tool:
        assert all(RULES[tool](export(none, tool), names).values()), tool


@pytest.mark.parametrize("tool", [tool for tool in Tool if tool is not Tool.QPROBE])
@pytest.mark.parametrize("recipe", ["mine", "nvfp4-fwd-rht"])
def test_a_recipe_without_a_counterpart_is_refused(tool, recipe):
    with pytest.raises(InputError, match=f"{tool} has no counterpart of the recipe '{recipe}'"):
        export(tricky_plan(recipe), tool)


@pytest.mark.parametrize(
    ("tool", "recipe"), [(Tool.TE, "int8-tensor"), (Tool.TORCHAO, "int4-channel-token")]
)
def test_integers_that_a_tool_does_not_have(tool, recipe):
    with pytest.raises(InputError, match="no counterpart"):
        export(tricky_plan(recipe), tool)
