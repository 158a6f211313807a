from dataclasses import replace

import pytest
import subjects
import torch
from subjects import awkward, linear
from torch import nn

from qprobe.analyzers.base import ANALYZERS, ActiveAnalyzer
from qprobe.analyzers.curvature import Curvature
from qprobe.errors import InputError
from qprobe.quant import Gemm, convert, override, recipe
from qprobe.quant.weight_error import weight_error
from qprobe.records import Array

SMALL = Curvature(draws=4, iterations=3, steps=4, batches=3)


def values(items):
    return {(one.site, one.key): one.value for one in items if not isinstance(one, Array)}


def test_it_is_registered():
    found = ANALYZERS.get("curvature")
    assert isinstance(found, ActiveAnalyzer)
    assert found.reads == {"curvature"}


def test_least_squares_by_hand():
    subject, matrix = linear()
    found = values(Curvature(draws=200, iterations=60, eigenvalues=1).measure(subject))
    error = weight_error(subject.model[0])
    assert error is not None
    d = error.flatten()
    assert found["0", "second_order"] == pytest.approx(0.5 * float(d @ matrix @ d))
    assert found["", "predicted"] == pytest.approx(found["", "measured"])
    assert found["", "second_order"] == found["0", "second_order"]
    assert found["", "eigenvalue0"] == pytest.approx(
        float(torch.linalg.eigvalsh(matrix)[-1]), abs=found["", "eigenvalue0.residual"] + 1e-9
    )
    for site in ("", "0"):
        apart = abs(found[site, "trace"] - float(matrix.trace()))
        assert apart < 3 * found[site, "trace.stderr"]
    assert found["", "negative_share"] == 0.0
    assert 0 < found["", "along_gradient"] <= found["", "eigenvalue0"] * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_the_curvature_of_the_same_weights_in_float32(dtype):
    half, _ = linear(dtype)
    wide, matrix = linear(dtype)
    wide.model.float()
    batches = [tuple(one.float() for one in batch) for batch in wide.batches()]
    wide = replace(wide, batches=lambda: batches)
    measured = list(Curvature(draws=20).measure(half))
    found, theirs = values(measured), values(Curvature(draws=20).measure(wide))
    assert found.pop(("", "widened")) == 1.0
    assert found == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    assert found["", "eigenvalue0"] == pytest.approx(
        float(torch.linalg.eigvalsh(matrix)[-1]), rel=0.1
    )
    records = [one for one in measured if not isinstance(one, Array)]
    (said,) = Curvature().analyze(records)
    assert "in half precision, and was copied to float32" in said.control


def test_every_estimate_has_its_standard_error():
    found = values(SMALL.measure(awkward()))
    exact = {"asymmetry", "samples", "parameters", "units", "gradient_norm", "error_norm", "loss"}
    for site, key in found:
        if key in exact or key.endswith((".stderr", ".draws", ".residual")):
            continue
        assert {(site, f"{key}.stderr"), (site, f"{key}.residual")} & found.keys(), key


def test_layers_add_up_where_they_do_not_interact():
    subject = awkward()
    override(subject.model, {"*": "bf16", "last": "int4-tensor"})
    found = values(SMALL.measure(subject))
    for key in ("first_order", "second_order", "predicted"):
        assert found["", key] == pytest.approx(found["last", key])
    assert {site for site, _ in found} == {"", "last"}


def test_a_recipe_that_leaves_weights_alone_still_has_a_curvature():
    subject = awkward()
    kept = recipe("int8-tensor")
    inputs = replace(kept, fprop=Gemm(a=kept.fprop.a), dgrad=Gemm(), wgrad=Gemm())
    convert(subject.model, inputs, "all")
    records = [one for one in SMALL.measure(subject) if not isinstance(one, Array)]
    assert ("", "trace") in values(records)
    assert not {"predicted", "measured"} & {one.key for one in records}
    assert Curvature().analyze(records) == []


def test_a_loss_that_differs_between_calls_is_refused():
    class Random(nn.Linear):
        def forward(self, x):
            return nn.functional.dropout(torch.tanh(super().forward(x)), 0.5, training=True)

    model = nn.Sequential(nn.Linear(8, 8), Random(8, 2))
    noisy = subjects.subject(model, awkward().batches())
    with pytest.raises(InputError, match="is not symmetric"):
        list(SMALL.measure(noisy))


def state(model: nn.Module):
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return (
        tensors,
        [type(module) for module in model.modules()],
        [id(getattr(module, "setup", None)) for module in model.modules()],
        [module.training for module in model.modules()],
        [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
        [len(module._forward_hooks) for module in model.modules()],
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was_found(training):
    subject = awkward()
    subject.model.train(training)
    subject.model.first.eval()
    subject.model.last.weight.grad = torch.ones_like(subject.model.last.weight)
    generator = subject.model.last.setup.generator
    before, noise, own = state(subject.model), torch.get_rng_state(), generator.get_state()
    for _ in SMALL.measure(subject):
        assert torch.equal(torch.get_rng_state(), noise)
    after = state(subject.model)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:4] == after[1:4]
    assert all(a[0] == b[0] and a[1] is b[1] for a, b in zip(before[4], after[4], strict=True))
    assert before[5] == after[5]
    assert torch.equal(generator.get_state(), own)


def test_the_same_seed_gives_the_same_numbers():
    first, again = (values(SMALL.measure(awkward())) for _ in range(2))
    assert first == again


def test_the_density_is_one():
    (array,) = (one for one in SMALL.measure(awkward()) if isinstance(one, Array))
    grid, density = array.data
    assert torch.trapezoid(torch.from_numpy(density), torch.from_numpy(grid)) == pytest.approx(
        1.0, abs=1e-3
    )


def test_its_finding_comes_from_its_records():
    subject, _ = linear()
    records = [one for one in SMALL.measure(subject) if not isinstance(one, Array)]
    (found,) = Curvature().analyze(records)
    assert found.analyzer == "curvature"
    assert found.low <= found.effect <= found.high


@pytest.mark.parametrize("field", ["draws", "eigenvalues", "iterations", "steps", "batches"])
def test_settings_are_checked(field):
    with pytest.raises(InputError, match=f"{field} is at least"):
        Curvature(**{field: 0})
