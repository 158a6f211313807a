import pytest
import yaml
from sample_plans import TRICKY, tricky_plan

from qprobe.plan.exports.llm_compressor import text

#: Recipe, and the preset of compressed-tensors that has to come out of it, where there is one.
PRESETS = [
    ("nvfp4", "NVFP4"),
    ("int8-channel-token", "W8A8"),
    ("int8-adaptive", "W8A8"),
    ("int4-tensor", None),
    ("int3-channel-token", None),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("recipe", "preset"), PRESETS)
def test_compressed_tensors_reads_the_scheme(recipe, preset):
    quantization = pytest.importorskip("compressed_tensors.quantization")
    modifier = yaml.safe_load(text(tricky_plan(recipe)))["default_stage"]["default_modifiers"]
    groups = modifier["QuantizationModifier"]["config_groups"]
    read = quantization.QuantizationConfig(config_groups=groups).config_groups["group_0"]
    if preset is None:
        bits = int(recipe[3])
        assert (read.weights.num_bits, read.input_activations.num_bits) == (bits, bits)
        return
    wanted = quantization.preset_name_to_scheme(preset, read.targets)
    assert read.weights.model_dump() == wanted.weights.model_dump()
    assert read.input_activations.model_dump() == wanted.input_activations.model_dump()


@pytest.mark.filterwarnings("ignore")
def test_compressed_tensors_matches_the_layers_of_the_plan():
    match = pytest.importorskip("compressed_tensors.utils.match")
    made = tricky_plan()
    modifier = yaml.safe_load(text(made))["default_stage"]["default_modifiers"]
    targets = modifier["QuantizationModifier"]["config_groups"]["group_0"]["targets"]
    names = [*TRICKY, "a.bbb", "LinearX", "re:xx", "it's"]
    found = {name for name in names if any(match.match_name(name, one) for one in targets)}
    assert found == {layer.path for layer in made.quantized}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", [recipe for recipe, _ in PRESETS])
def test_llm_compressor_reads_it(recipe):
    compressor = pytest.importorskip("llmcompressor.recipe", exc_type=ImportError)
    read = compressor.Recipe.create_instance(text(tricky_plan(recipe)))
    (modifier,) = read.modifiers
    assert type(modifier).__name__ == "QuantizationModifier"
    assert len(modifier.ignore) == 4
