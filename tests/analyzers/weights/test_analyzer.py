import pytest
import torch
from analyzers.weights.packing import pack_nvfp4

from qprobe.analyzers.base import ANALYZERS, Analyzer, CheckpointAnalyzer
from qprobe.analyzers.weights import Depth, WeightAnalyzer
from qprobe.analyzers.weights.baseline import granularity_gain_db
from qprobe.analyzers.weights.selection import Part, part
from qprobe.errors import InputError
from qprobe.records.schema import Cause, Record, Severity

ANALYZER = WeightAnalyzer()


def findings(checkpoint, depth=Depth.FULL):
    return ANALYZER.analyze(list(ANALYZER.measure_checkpoint(checkpoint, depth)))


@pytest.mark.parametrize("shape", [(128, 256), (64, 32, 3, 3)])
@pytest.mark.parametrize("depth", Depth)
def test_one_huge_output_is_not_told_as_large_inputs(opened, generator, shape, depth):
    """Its row holds nearly all the energy; what suffers under one scale are the other rows."""
    weight = torch.randn(*shape, generator=generator)
    weight[5] *= 100.0
    (found,) = findings(opened({"fc.weight": weight}), depth)
    assert found.cause is Cause.CHANNEL_OUTLIER
    assert found.severity is Severity.WARN
    assert "INT4 with one scale keeps 0." in found.claim
    assert "of an output of fc, its largest being" in found.claim
    assert found.remedy.startswith("one for each output channel instead: gains 1")
    # A large input beside it is still seen.
    weight[:, 9] *= 100.0
    both = findings(opened({"fc.weight": weight}), depth)
    assert any("large inputs of fc" in one.claim for one in both)


def healthy(generator):
    """Layers as networks have them: normal, uniform, and shrunk by outputs and by inputs a bit."""

    def normal(*shape):
        return torch.randn(*shape, generator=generator) * 0.02

    return {
        "stem.weight": normal(32, 3, 4, 4),
        "conv.weight": normal(48, 40, 3, 3),
        "wide.weight": normal(64, 512),
        "tall.weight": normal(300, 48),
        "uniform.weight": torch.rand(64, 128, generator=generator) - 0.5,
        "uneven.weight": normal(128, 256) * (0.3 * torch.randn(256, generator=generator)).exp(),
        "half.weight": normal(64, 64).bfloat16(),
        "depthwise.weight": normal(64, 1, 3, 3),
        "embed.weight": normal(100, 32) * (1 + 50 * (torch.arange(32) == 3)),
        "norm.weight": torch.ones(64),
        "norm.bias": torch.zeros(64),
        "norm.running_mean": torch.zeros(64),
        "steps": torch.tensor(3),
    }


@pytest.mark.parametrize("depth", Depth)
def test_a_healthy_checkpoint_has_no_findings(depth, opened, generator):
    assert findings(opened(healthy(generator)), depth) == []


@pytest.mark.parametrize("seed", range(10))
def test_no_false_alarm_in_small_layers_either(seed, opened):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(8, 8), (16, 8), (4, 16, 2, 2), (32, 32), (10, 64), (1, 64)]
    tensors = {
        f"l{i}.weight": torch.randn(*shape, generator=generator) for i, shape in enumerate(shapes)
    }
    assert findings(opened(tensors)) == []


@pytest.mark.parametrize("depth", Depth)
def test_planted_input_channels_are_found_and_the_remedy_that_works_is_named(
    depth, opened, generator
):
    tensors = healthy(generator)
    size = torch.ones(512)
    size[5::32] = 16.0
    tensors["wide.weight"] = tensors["wide.weight"] * size
    first = findings(opened(tensors), depth)[0]
    assert (first.sites, first.cause) == (("wide",), Cause.CHANNEL_OUTLIER)
    assert first.severity is Severity.WARN
    assert "smoothing" in first.remedy
    assert first.low <= first.effect <= first.high
    assert (first.low == first.effect) or depth is Depth.QUICK


def test_planted_output_channels_are_found_by_the_integer_granularity(opened, generator):
    tensors = healthy(generator)
    tensors["conv.weight"][7] *= 20.0
    found = findings(opened(tensors))
    assert [f.sites for f in found] == [("conv",)]
    assert "INT4 with one scale" in found[0].claim
    assert found[0].cause is Cause.CHANNEL_OUTLIER
    assert "one for each output channel instead: gains" in found[0].remedy


@pytest.mark.parametrize("depth", Depth)
def test_one_large_input_is_found_by_what_groups_gain_over_a_scale_for_each_output(
    depth, opened, generator
):
    """Each output has one huge weight, which sets its scale: all others become zero."""
    weight = torch.randn(64, 4096, generator=generator)
    weight[:, 77] *= 40.0
    tensors = healthy(generator) | {"wide.weight": weight}
    (one,) = [f for f in findings(opened(tensors), depth) if "INT4 with one scale for" in f.claim]
    assert (one.sites, one.cause, one.severity) == (
        ("wide",), Cause.CHANNEL_OUTLIER, Severity.WARN,
    )  # fmt: skip
    assert "one for each 128 inputs instead: gains" in one.remedy


def test_the_gain_of_groups_is_counted_from_what_they_gain_on_normal_weights(opened, generator):
    weight = torch.randn(64, 4096, generator=generator)
    values = {r.key: r.value for r in ANALYZER.measure_checkpoint(opened({"fc.weight": weight}))}
    gained = values["int4_group.sqnr_db"] - values["int4_channel.sqnr_db"]
    assert gained == pytest.approx(granularity_gain_db(4096, 128), abs=0.4)


def test_single_large_elements_are_not_called_channels(opened, generator):
    weight = torch.randn(256, 256, generator=generator)
    weight[torch.arange(0, 256, 64), torch.arange(0, 256, 64)] = 40.0
    found = [f for f in findings(opened({"fc.weight": weight})) if "INT4" in f.claim]
    assert [f.cause for f in found] == [Cause.TOO_FEW_BITS]


def test_nan_is_found_wherever_it_is(opened, generator):
    tensors = healthy(generator)
    tensors["norm.bias"][3] = float("nan")
    tensors["wide.weight"][3, 4] = float("inf")
    found = findings(opened(tensors))
    assert {f.sites for f in found} == {("norm.bias",), ("wide",)}
    assert all(f.severity is Severity.WARN and "NaN or infinite" in f.claim for f in found)


def test_dead_outputs_and_copies_are_information(opened, generator):
    tensors = healthy(generator)
    tensors["wide.weight"][10:14] = 0.0
    tensors["head.weight"] = tensors["tall.weight"]
    found = findings(opened(tensors))
    assert {(f.severity, f.unit) for f in found} == {
        (Severity.INFO, "share of outputs"),
        (Severity.INFO, "copies"),
    }
    assert {f.effect for f in found} == {4 / 64, 2.0}


def test_an_all_zero_weight_is_measured_without_a_ratio(opened):
    records = list(ANALYZER.measure_checkpoint(opened({"fc.weight": torch.zeros(16, 16)})))
    assert not [r for r in records if r.key.endswith("_db")]
    assert [f.effect for f in ANALYZER.analyze(records)] == [1.0]


def test_a_healthy_packed_weight_has_no_findings(opened, generator):
    weight = torch.randn(256, 256, generator=generator) * 0.02
    assert findings(opened(pack_nvfp4(weight))) == []
    assert findings(opened(pack_nvfp4(weight, weight.abs().max() / 2688.0))) == []


@pytest.mark.parametrize(
    ("size", "factor", "cause", "says"),
    [
        (0.01, 1.0, Cause.SCALE_MISSING, "has no tensor scale"),
        (0.02, 0.5, Cause.SCALE_WRONG, "tensor scale far too large"),
        # The largest magnitude of weights a tenth as large: blocks saturate.
        (0.02, 0.002 * 4.5 / 2688.0, Cause.SCALE_WRONG, "at their largest value"),
    ],
)
def test_wrong_tensor_scales_are_found(size, factor, cause, says, opened, generator):
    weight = torch.randn(256, 256, generator=generator) * size
    found = findings(opened(pack_nvfp4(weight, factor)))
    assert found[0].cause is cause
    assert says in found[0].claim
    assert found[0].severity is Severity.WARN


def test_block_scales_that_are_too_large_are_found(opened, generator):
    parts = pack_nvfp4(torch.randn(256, 256, generator=generator))
    half = torch.tensor([0, 0, 1, 1, 2, 3, 3, 4], dtype=torch.uint8)  # codes of half the values
    low, high = parts["fc.weight"] & 0xF, parts["fc.weight"] >> 4
    shrunk = [half[(c & 7).long()] | (c & 8) for c in (low, high)]
    parts["fc.weight"] = shrunk[0] | (shrunk[1] << 4)
    assert "the scales of fc are too large" in findings(opened(parts))[0].claim


@pytest.mark.parametrize(("spread", "count"), [(7, 0), (2, 1)])
def test_integer_groups_that_use_few_codes_are_found(spread, count, opened, generator):
    codes = torch.randint(-spread, spread + 1, (32, 128), generator=generator) + 8
    fields = codes.view(32, 16, 8).long() << torch.arange(0, 32, 4)
    words = fields.sum(-1)
    parts = {
        "fc.weight_packed": (words - (words >> 31 << 32)).to(torch.int32),
        "fc.weight_scale": torch.rand(32, 4, generator=generator) + 0.1,
        "fc.weight_shape": torch.tensor([32, 128]),
    }
    found = findings(opened(parts))
    assert len(found) == count
    assert all("groups use less than half the codes" in f.claim for f in found)


def test_a_nan_scale_is_found(opened, generator):
    parts = pack_nvfp4(torch.randn(64, 64, generator=generator))
    scale = parts["fc.weight_scale"].float()
    scale[3, 1] = float("nan")
    parts["fc.weight_scale"] = scale.to(torch.float8_e4m3fn)
    assert any("NaN, infinite or negative" in f.claim for f in findings(opened(parts)))


def exponents(weight, shift=0, up=True):
    """MXFP4 of a weight, its scales rounded up or down, and up by so many octaves more."""
    blocks = weight.unflatten(1, (-1, 32))
    largest = blocks.abs().amax(2)
    exponent = (largest / 6.0).log2().ceil() if up else largest.log2().floor() - 2.0
    exponent = exponent + shift
    sizes = (blocks.abs() / torch.exp2(exponent).unsqueeze(2)).clamp(max=6.0).flatten(1)
    levels = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    codes = (sizes.unsqueeze(-1) - levels).abs().argmin(-1).to(torch.uint8)
    codes |= (weight < 0).to(torch.uint8) << 3
    return {
        "fc.weight_packed": codes[:, 0::2] | (codes[:, 1::2] << 4),
        "fc.weight_scale": (exponent + 127).to(torch.uint8),
    }


@pytest.mark.parametrize(
    ("shift", "says"),
    [(0, None), (2, "reach no code of 3 and more"), (-3, "scales of fc are too small")],
)
@pytest.mark.parametrize("up", [True, False])
def test_scales_that_are_exponents(shift, says, up, opened, generator):
    weight = torch.randn(64, 256, generator=generator) * 0.02
    found = findings(opened(exponents(weight, shift, up)))
    assert [one.cause for one in found] == ([] if says is None else [Cause.SCALE_WRONG])
    assert all(says in one.claim and one.severity is Severity.WARN for one in found)


def test_an_exponent_that_is_nan_is_found(opened, generator):
    parts = exponents(torch.randn(64, 64, generator=generator))
    parts["fc.weight_scale"][3, 1] = 255
    assert any("NaN, infinite or negative" in f.claim for f in findings(opened(parts)))


def test_smoothing_that_cannot_be_meant_is_found(opened, generator):
    parts = pack_nvfp4(torch.randn(64, 64, generator=generator))
    smoothing = torch.ones(64)
    assert findings(opened(parts | {"fc.pre_quant_scale": smoothing})) == []
    smoothing[5] = 0.0
    (found,) = findings(opened(parts | {"fc.pre_quant_scale": smoothing}))
    assert "1.6% of the scales of the inputs of fc" in found.claim


def test_records_say_what_was_not_judged(opened, generator):
    records = ANALYZER.measure_checkpoint(opened(healthy(generator)), Depth.QUICK)
    counts = {r.key: r.value for r in records if r.site == ""}
    assert counts == {
        "weights": 13.0,
        "weights_product": 6.0,
        "elements_product": 109504.0,
        "weights_embedding": 1.0,
        "elements_embedding": 3200.0,
        "weights_narrow": 2.0,
        "elements_narrow": 2112.0,
        "weights_stack": 0.0,
        "elements_stack": 0.0,
        "weights_other": 4.0,
        "elements_other": 193.0,
        "weights_unread": 0.0,
        "elements_unread": 0.0,
    }


def test_integer_groups_of_one_sign_are_no_fault_of_their_scales(opened):
    levels = torch.arange(8, dtype=torch.int64)  # codes 8..15 are the values 0..7
    word = sum(int(8 + level) << (4 * place) for place, level in enumerate(levels))
    small = sum(9 << (4 * place) for place in range(8))

    def packed(word):
        words = torch.full((32, 8), word - 2**32 if word >= 2**31 else word, dtype=torch.int32)
        return {
            "fc.weight_packed": words, "fc.weight_scale": torch.ones(32, 2),
            "fc.weight_shape": torch.tensor([32, 64]),
        }  # fmt: skip

    assert findings(opened(packed(word))) == []
    (found,) = findings(opened(packed(small)))
    assert "use less than half the codes" in found.claim


def test_findings_come_from_records_alone():
    values = {"n": 4096.0, "out": 64.0, "judged": 1.0, "nan": 2.0, "infinite": 0.0}
    records = [Record("r", 0, "fc", "weight", "weights", k, v) for k, v in values.items()]
    found = ANALYZER.analyze(records)
    assert [(f.effect, f.n) for f in found] == [(2 / 4096, 4096)]
    others = [Record("r", 0, "fc", "weight", "summary", k, v) for k, v in values.items()]
    assert ANALYZER.analyze(others) == []


def test_it_is_registered_and_keeps_the_protocol():
    registered = ANALYZERS.get("weights")
    assert isinstance(registered, Analyzer)
    assert isinstance(registered, CheckpointAnalyzer)


@pytest.mark.parametrize("scale", ["weight_scale", "SCB"])
def test_eight_bits_are_judged_as_the_numbers_they_stand_for(scale, opened, generator):
    tensors = healthy(generator)
    wide = tensors["wide.weight"]
    wide[9] *= 8.0  # one output, which its own scale hides in the codes
    dense = findings(opened(tensors))
    assert any("INT4 with one scale" in one.claim for one in dense)
    largest = wide.abs().amax(1)
    tensors["wide.weight"] = (wide / largest[:, None] * 127).round().to(torch.int8)
    tensors[f"wide.{scale}"] = largest if scale == "SCB" else largest / 127
    found = findings(opened(tensors))
    assert [(f.sites, f.unit) for f in found] == [(f.sites, f.unit) for f in dense]


def test_conv1d_of_gpt2_is_judged_along_its_inputs(opened, generator):
    weight = torch.randn(512, 64, generator=generator) * 0.02  # [in, out]
    weight[5::32] *= 16.0
    tensors = {"mlp.c_proj.weight": weight, "mlp.c_proj.bias": torch.zeros(64)}
    (first, *_) = findings(opened(tensors))
    assert "large inputs of mlp.c_proj hide their neighbours" in first.claim


def test_a_packing_that_is_not_read_is_counted(opened, generator):
    tensors = healthy(generator)
    tensors["nf4.weight"] = torch.zeros(2048, 1, dtype=torch.uint8)
    tensors["positions"] = torch.arange(64).reshape(8, 8)
    values = {
        (r.site, r.key): r.value for r in ANALYZER.measure_checkpoint(opened(tensors), Depth.QUICK)
    }
    assert values["nf4", "unread"] == 2048
    assert values["", "weights_unread"] == 1
    assert ("positions", "unread") not in values


@pytest.mark.parametrize(
    "tensors",
    [
        {"norm.weight": torch.ones(64)},
        {"fc.weight": torch.zeros(32, 32, dtype=torch.uint8)},
        {"fc.weight": torch.zeros(0, 32)},
    ],
)
def test_nothing_to_judge_is_no_clean_bill(tensors, opened):
    with pytest.raises(InputError, match="has nothing to judge: what it holds"):
        findings(opened(tensors))


def test_weights_whose_squares_vanish_are_told_dead_only_where_they_are_zero(opened):
    weight = torch.full((32, 32), 1e-30)
    weight[3] = 0.0
    (found,) = findings(opened({"fc.weight": weight}))
    assert found.claim == "1 of 32 outputs of fc is all zero"


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("shared.weight", (1000, 64), Part.EMBEDDING),
        ("block.0.relative_attention_bias.weight", (32, 8), Part.EMBEDDING),
        ("time_embedding.linear_1.weight", (320, 64), Part.PRODUCT),
        ("context_embedder.weight", (64, 96), Part.PRODUCT),
        ("mlp.experts.gate_up_proj", (8, 64, 128), Part.STACK),
    ],
)
def test_what_a_tensor_is_for(name, shape, expected):
    assert part(name, shape) is expected
