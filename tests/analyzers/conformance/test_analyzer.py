"""Every defect of a quantizer by its name, from what it gives back; a faithful one passes."""

import pytest
import torch
from analyzers.patients import convolutions, sick, transformer

from qprobe.analyzers.conformance import Conformance
from qprobe.analyzers.conformance.analyzer import named
from qprobe.quant import convert, fake_quantize
from qprobe.quant.products import faithful
from qprobe.quant.ptq.applied import with_quantizer
from qprobe.records.schema import Cause, Record, Role, Severity

DEFECTS = [
    ("missing-scale", 64.0, Cause.SCALE_MISSING),
    ("missing-gradient-scale", 1.0, Cause.SCALE_MISSING),
    ("missing-gradient-scale", 1e-6, Cause.SCALE_MISSING),
    ("saturating-scale", 5.3, Cause.SCALE_WRONG),
    ("stale-scale", 5.3, Cause.SCALE_WRONG),
    ("transposed-scales", 0.5, Cause.WRONG_AXIS),
    ("few-bits", 1.0, Cause.TOO_FEW_BITS),
    ("few-bits", 2.0, Cause.TOO_FEW_BITS),
    ("nearest-gradient", 0.25, Cause.ROUNDING_BIAS),
    ("noise", 4.0, Cause.NOT_EXPLAINED),
]
OF_INTEGERS = {"saturating-scale", "stale-scale", "transposed-scales", "few-bits", "noise"}


def asked(patient):
    analyzer = Conformance()
    return analyzer.analyze(list(analyzer.measure(patient)))


@pytest.mark.parametrize("name", ["nvfp4-sr", "nvfp4-2d-rht-sr", "int4-channel-token", "nvfp4"])
def test_a_faithful_quantizer_conforms(name):
    assert asked(convolutions(name)) == []


def test_the_layers_of_a_transformer_conform():
    assert asked(transformer()) == []


CASES = [
    (name, *defect)
    for name in ("nvfp4-sr", "int4-channel-token")
    for defect in DEFECTS
    # Integers have no factor of the tensor and no stochastic rounding.
    if name == "nvfp4-sr" or defect[0] in OF_INTEGERS
]


@pytest.mark.parametrize(("name", "kind", "strength", "cause"), CASES)
def test_a_defect_is_named_at_its_layer_alone(name, kind, strength, cause):
    patient = convolutions(name)
    with sick(patient, kind, strength=strength) as sites:
        found = asked(patient)
    assert [one.cause for one in found] == [cause]
    assert found[0].sites[0] in sites
    assert found[0].low == found[0].effect == found[0].high
    assert found[0].n > 1


def test_the_factor_of_a_wrong_scale_is_measured():
    patient = convolutions()
    with sick(patient, "stale-scale", strength=5.3):
        assert "5.3 times too large" in asked(patient)[0].claim
    with sick(patient, "saturating-scale", strength=5.3):
        assert "5.3 times too small" in asked(patient)[0].claim


def test_other_random_bytes_are_no_defect():
    patient = convolutions()

    def other_bytes(x, operand, role, generator):
        if operand.spec.rounding == "stochastic":
            generator = torch.Generator().manual_seed(generator.initial_seed() + 1)
        return faithful(x, operand, role, generator)

    undo = with_quantizer(patient.model.left, "left", other_bytes)
    assert asked(patient) == []
    undo()


def test_scales_of_another_axis_throughout_are_told():
    patient = convolutions("nvfp4")

    def along_outputs(x, operand, role, generator):
        if (role.gemm, role.operand) != ("fprop", "w"):
            return faithful(x, operand, role, generator)
        return fake_quantize(x, operand.spec, axis=1)

    undo = with_quantizer(patient.model.left, "left", along_outputs)
    found = asked(patient)
    undo()
    assert [(one.cause, one.sites, one.roles) for one in found] == [
        (Cause.WRONG_AXIS, ("left",), (Role.WEIGHT,))
    ]


def test_half_precision_layers_conform():
    patient = convolutions("nvfp4")
    with torch.autocast("cpu", torch.bfloat16):
        assert asked(patient) == []


def test_a_model_in_high_precision_has_nothing_to_conform_to():
    patient = convolutions()
    convert(patient.model, "bf16")
    assert asked(patient) == []


def records(**values):
    return [
        Record("", 1, "fc", "input", "conformance", f"fprop.x.{key}", value)
        for key, value in values.items()
    ]


SMALL = {"n": 64.0, "deviating": 0.1, "intended_noise_share": 0.01}


@pytest.mark.parametrize(
    ("values", "severities"),
    [
        ({**SMALL, "deviation_share": 0.001}, [Severity.WARN]),
        ({**SMALL, "deviation_share": 0.0009}, [Severity.INFO]),
        ({**SMALL, "deviation_share": 1e-9}, []),
        ({**SMALL, "deviation_share": 0.0, "deviating": 0.0}, []),
        ({**SMALL, "deviating": 0.0, "deviation_share": 0.0, "frozen": 0.05}, [Severity.WARN]),
        ({**SMALL, "deviating": 0.0, "deviation_share": 0.0, "frozen": 0.049}, []),
    ],
)
def test_a_deviation_warns_from_a_tenth_of_the_intended_noise(values, severities):
    assert [one.severity for one in Conformance().analyze(records(**values))] == severities


def test_the_more_special_cause_wins_a_tie_and_too_little_explains_nothing():
    shares = {"too_few_bits.explained": 0.995, "scale_wrong.explained": 1.0}
    assert named(shares) is Cause.TOO_FEW_BITS
    assert named({**shares, "too_few_bits.explained": 0.9}) is Cause.SCALE_WRONG
    assert named({"scale_wrong.explained": 0.79}) is Cause.NOT_EXPLAINED
