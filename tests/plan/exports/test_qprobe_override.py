import tomllib

import pytest
import torch
from sample_plans import layer, tricky_plan, whole
from torch import nn

from qprobe.plan import choose, evidence, keep
from qprobe.plan.exports.qprobe_override import text
from qprobe.quant import override, read_overrides


def test_the_file_makes_the_plan_of_a_plain_model(tmp_path):
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
    records = [*whole(), *(r for at in range(4) for r in layer(str(at), 1024, 0.1 - 0.02 * at))]
    made = choose(evidence(records), keep("1"), "nvfp4")
    path = tmp_path / "plan.toml"
    path.write_text(text(made), "utf-8")
    done = override(model, read_overrides(path))
    assert done.converted == ("1", "2", "3")
    assert [one.path for one in done.left_alone] == ["0"]
    x = torch.randn(4, 32)
    assert torch.equal(model[0](x), nn.functional.linear(x, model[0].weight, model[0].bias))


@pytest.mark.parametrize("name", ["a\x7fb", 'say "x"', "back\\slash", "ünï", "line\nbreak"])
def test_any_name_is_valid_toml(name):
    made = choose(evidence([*whole(), *layer(name, 1, 0.1)]), keep("1"), "nvfp4")
    assert tomllib.loads(text(made)) == {name: "bf16"}


def test_names_with_special_characters():
    assert tomllib.loads(text(tricky_plan()))["a[[]0].b[*]"] == "bf16"
