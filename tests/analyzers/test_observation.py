"""What is left behind by looking: nothing; and what is seen: the same as by hand."""

import pytest
import torch
from analyzers.patients import convolutions, subject, transformer
from torch import nn

from qprobe.analyzers.measured import Measured, Place
from qprobe.analyzers.observation import control, observe, under_recipe
from qprobe.errors import InputError
from qprobe.quant import convert, override

READS = ["moments", "operand_error", "branch_energy", control("branch_energy")]


def state_of(model):
    return (
        [p.detach().clone() for p in model.parameters()],
        [b.detach().clone() for b in model.buffers()],
        [m.training for m in model.modules()],
        [p.grad for p in model.parameters()],
        [getattr(m, "setup", None) for m in model.modules()],
        model.left.setup.generator.get_state(),
        torch.random.get_rng_state(),
    )


def test_the_model_is_left_as_it_was():
    patient = convolutions()
    model = patient.model
    model.add_module("norm", nn.BatchNorm2d(4))
    model.train()
    model.left.eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.left.setup.generator.manual_seed(9)
    before = state_of(model)
    observe(patient, READS)
    after = state_of(model)
    for one, two in zip(before[:2], after[:2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert before[2] == after[2]
    assert all(a is b for a, b in zip(before[3], after[3], strict=True))
    assert all(a is b for a, b in zip(before[4], after[4], strict=True))
    assert torch.equal(before[5], after[5])
    assert torch.equal(before[6], after[6])
    assert not any(module._forward_hooks for module in model.modules())


def test_all_batches_are_one_look():
    patient = convolutions()
    seen = Measured(observe(patient, ["moments"]).records, "moments")
    x = torch.cat([batch[0] for batch in patient.batches()])
    assert seen.value("stem", "input", "n") == x.numel()
    assert seen.value("stem", "input", "absmax") == pytest.approx(float(x.abs().max()))
    one = Measured(observe(patient, ["moments"], batches=1).records, "moments")
    assert one.value("stem", "input", "n") == x.numel() / 2


def test_what_a_model_computes_is_traced_once_with_its_recipes_and_once_without():
    patient, passes = convolutions(), []
    patient.model.register_forward_pre_hook(lambda *_: passes.append(1))
    observe(patient, READS)
    # What the model is called with; then, twice, the trace and each of two batches.
    assert len(passes) == 1 + 2 * (1 + 2)


def test_the_control_of_an_attention_under_a_recipe_sees_the_calls_of_high_precision():
    """A product of attention is two products under a recipe and one call without."""
    found = observe(transformer(), ["branch_energy", control("branch_energy")])
    assert not [one for one in found.not_measured if "never seen" in one]
    mine, theirs = (
        {one.site for one in found.records if one.probe == name}
        for name in ("branch_energy", control("branch_energy"))
    )
    assert mine == theirs != set()


def test_layers_that_never_ran_are_named_once_and_not_by_every_probe():
    patient = convolutions()
    patient.model.idle = nn.Linear(4, 4)
    patient.model.spare = nn.Linear(4, 4)
    found = observe(patient, [*READS, "gradient_fidelity"])
    assert [one for one in found.not_measured if "idle" in one] == ["idle and spare never ran"]


def test_the_control_is_in_high_precision_under_a_name_of_its_own():
    patient = convolutions()
    found = observe(patient, ["moments", control("moments")])
    mine, theirs = (
        Measured(found.records, name).value("head", "output", "std")
        for name in ("moments", control("moments"))
    )
    with torch.no_grad():
        quantized = torch.cat([patient.model(batch[0]) for batch in patient.batches()])
        convert(patient.model, "bf16")
        plain = torch.cat([patient.model(batch[0]) for batch in patient.batches()])
    assert mine == pytest.approx(float(quantized.std(correction=0)), rel=1e-5)
    assert theirs == pytest.approx(float(plain.std(correction=0)), rel=1e-5)
    assert mine != theirs


def test_what_cannot_be_seen_is_said():
    found = observe(convolutions(), ["attention_logits", "moments"])
    assert "attention_logits: the model has no such site" in found.not_measured
    assert observe(convolutions(), ["attention_logits"]).records == ()
    both = observe(convolutions(), ["attention_logits", control("attention_logits"), "moments"])
    assert both.not_measured == found.not_measured  # once, although its control misses it too


def test_a_probe_that_has_nothing_to_compare_keeps_no_other_from_looking():
    """A model of which only the last layer is under a recipe has attention that is not."""
    patient = transformer()
    convert(patient.model, "bf16")
    last = [path for path, one in patient.model.named_modules() if isinstance(one, nn.Linear)][-1]
    override(patient.model, {last: "nvfp4"})
    found = observe(patient, ["attention_logits", "moments", "output_error"])
    assert found.not_measured[0] == "attention_logits: nothing there is under a recipe"
    assert {"moments", "output_error"} <= {one.probe for one in found.records}


def test_a_loss_without_anything_learned_says_that_gradients_are_missing():
    patient = convolutions()
    for parameter in patient.model.parameters():
        parameter.requires_grad_(requires_grad=False)
    found = observe(patient, ["moments"])
    assert any("gradients" in one for one in found.not_measured)
    assert found.records


def test_a_subject_without_batches_is_refused():
    patient = convolutions()
    empty = subject(patient.model, [], patient.recipe)
    with pytest.raises(InputError, match="no batch to look at"):
        observe(empty, ["moments"])


def test_modules_under_a_recipe_are_found_in_order():
    assert under_recipe(convolutions().model) == ["stem", "left", "right", "head"]


def test_of_several_steps_the_last_one_counts():
    found = observe(convolutions(), ["moments"], batches=1).records
    later = [type(one)(one.run, 9, *one.column, 7.0) for one in found[:1]]
    place = Place(found[0].site, found[0].role)
    for order in ([*found, *later], [*later, *found]):
        assert Measured(order, "moments").at(place)[found[0].key] == 7.0
