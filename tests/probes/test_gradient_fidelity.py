"""Against numpy in float64, and to the bit against what quantized layers leave in ``.grad``."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from seen import one_step, view
from torch import nn

from qprobe.errors import InputError
from qprobe.probes.base import PROBES, Probe
from qprobe.probes.gradient_fidelity import GradientFidelity, _Call
from qprobe.quant import NVFP4, Gemm, QuantRecipe, QuantSpec, convert
from qprobe.records.schema import Role
from qprobe.sites import Site

LAYERS = {
    "linear": (lambda: nn.Linear(40, 24), (6, 5, 40)),
    "conv": (lambda: nn.Conv2d(32, 16, 3, stride=2, padding=1, groups=2), (4, 32, 7, 7)),
    "reflect": (lambda: nn.Conv1d(16, 16, 3, padding=1, padding_mode="reflect"), (4, 16, 9)),
    "same": (lambda: nn.Conv2d(16, 8, (3, 5), padding="same"), (3, 16, 5, 5)),
    "transposed": (
        lambda: nn.ConvTranspose2d(16, 24, 3, stride=2, padding=1, output_padding=1, dilation=1),
        (4, 16, 5, 5),
    ),
}
NEAREST = ("nvfp4", "nvfp4-chain", "nvfp4-2d-rht", "int4-tensor", "int8-adaptive")


def trained(layer, recipe, dtype=torch.float32):
    torch.manual_seed(3)
    make, shape = LAYERS[layer]
    model = nn.Sequential(make()).to(dtype)
    if recipe:
        convert(model, recipe, layers="all")
    x = torch.randn(shape, dtype=dtype).requires_grad_()
    seen = one_step(model, x)
    return model, x, view(model, seen, "0", Role.GRAD_OUTPUT, draw=7)


def observed(probe, seen):
    with torch.no_grad():
        return probe.observe(seen)


def numbers(state):
    return {key: value.item() for key, value in state.to("cpu").scalars().items()}


@pytest.mark.parametrize("recipe", NEAREST)
@pytest.mark.parametrize("layer", LAYERS)
def test_quantized_gradients_are_those_of_the_layer_to_the_bit(layer, recipe):
    model, x, seen = trained(layer, recipe)
    call = _Call.of(seen, seen.setup)
    assert torch.equal(call.wgrads(1)[0], model[0].weight.grad)
    if layer not in ("reflect", "same"):  # there dx is the gradient of the padded input
        assert torch.equal(call.dgrads(1)[0], x.grad)


def test_under_autocast_too():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(32, 16))
    convert(model, "nvfp4", layers="all")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = one_step(model, torch.randn(8, 32))
    call = _Call.of(view(model, seen, "0", Role.GRAD_OUTPUT), model[0].setup)
    dw = call.wgrads(1)[0]
    assert dw.dtype == torch.bfloat16
    assert torch.equal(dw.float(), model[0].weight.grad)


@pytest.mark.parametrize("layer", LAYERS)
def test_high_precision_is_what_the_plain_layer_computes(layer):
    model, x, seen = trained(layer, None, torch.float64)
    call = _Call.of(seen, GradientFidelity("nvfp4")._asked)
    dw = call.reference.wgrad(call.wide)
    torch.testing.assert_close(dw, model[0].weight.grad, rtol=1e-12, atol=1e-12)
    if layer not in ("reflect", "same"):
        dx = call.reference.dgrad(call.wide)
        torch.testing.assert_close(dx, x.grad, rtol=1e-12, atol=1e-12)


def fidelity(g, h):
    g, h = (np.concatenate([one.detach().double().numpy().ravel() for one in x]) for x in (g, h))
    return {
        "cosine": g @ h / np.sqrt((g @ g) * (h @ h)),
        "norm_ratio": np.sqrt((h @ h) / (g @ g)),
        "projection": g @ h / (g @ g),
        "lost_decrease": 1 - g @ h / (g @ g),
        "snr_db": 10 * np.log10((g @ g) / ((h - g) @ (h - g))),
    }


def gradients(seed, recipe="nvfp4"):
    """A state, and dw and dx in high precision and quantized, from layers and not from products."""
    torch.manual_seed(seed)
    plain = nn.Sequential(nn.Linear(48, 32))
    x = torch.randn(6, 48).requires_grad_()
    dy = one_step(plain, x)
    high = (plain[0].weight.grad.clone(), x.grad.clone())
    quantized = nn.Sequential(nn.Linear(48, 32))
    quantized.load_state_dict(plain.state_dict())
    convert(quantized, recipe, layers="all")
    x.grad = None
    seen = one_step(quantized, x)
    low = (quantized[0].weight.grad, x.grad)
    assert dy.keys() == seen.keys()
    state = observed(GradientFidelity(), view(quantized, seen, "0", Role.GRAD_OUTPUT, draw=seed))
    return state, high, low


def test_numbers_are_those_of_numpy():
    state, high, low = gradients(0)
    found = numbers(state)
    for place, gemm in enumerate(("wgrad", "dgrad")):
        for key, value in fidelity([high[place]], [low[place]]).items():
            assert found[f"{gemm}.{key}"] == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert found["n"] == found["wgrad.n"] == 48 * 32
    assert found["dgrad.n"] == 6 * 48
    assert not [key for key in found if "draws" in key]


def test_calls_merge_as_pieces_of_one_gradient():
    (one, high, low), (other, high2, low2) = gradients(0), gradients(1)
    found = numbers(one.merge(other))
    wanted = fidelity([high[0], high2[0]], [low[0], low2[0]])
    for key, value in wanted.items():
        assert found[f"wgrad.{key}"] == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_merging_keeps_what_only_one_saw():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16))
    alone, several = (
        observed(
            GradientFidelity("nvfp4"),
            view(model, one_step(model, torch.randn(n, 16)), "0", Role.GRAD_OUTPUT),
        )
        for n in (1, 4)
    )
    assert alone.noise is None
    merged = [numbers(alone.merge(several)), numbers(several.merge(alone))]
    for found in merged:
        assert found["wgrad.halves.n"] == 256


def test_the_noise_of_the_batch_is_that_of_two_halves():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8))
    x = torch.randn(7, 16)  # the odd one is left out
    seen = view(model, one_step(model, x), "0", Role.GRAD_OUTPUT)
    found = numbers(observed(GradientFidelity("nvfp4"), seen))
    dy = seen[Role.GRAD_OUTPUT].double().numpy()
    g1, g2 = (dy[part].T @ x.double().numpy()[part] for part in (slice(0, 3), slice(3, 6)))
    cosine = (g1 * g2).sum() / np.sqrt((g1**2).sum() * (g2**2).sum())
    noise = ((g1 - g2) ** 2).sum() / ((g1**2).sum() + (g2**2).sum())
    assert found["wgrad.halves.batch_cosine"] == pytest.approx(cosine, rel=1e-5)
    assert found["wgrad.halves.batch_noise"] == pytest.approx(noise, rel=1e-5)
    half = nn.Sequential(nn.Linear(16, 8))
    half.load_state_dict(model.state_dict())
    convert(half, "nvfp4", layers="all")
    half(x[:3]).backward(torch.from_numpy(dy[:3]).float())
    error = ((half[0].weight.grad.double().numpy() - g1) ** 2).sum()
    expected = error / (((g1 - g2) ** 2).sum() / 2)
    assert found["wgrad.halves.noise_ratio"] == pytest.approx(expected, rel=1e-4)


def only(rounding):
    """A recipe that quantizes the gradient of the output in dgrad, and nothing else."""
    spec = QuantSpec(format=NVFP4, rounding=rounding)
    return QuantRecipe(name="only", dgrad=Gemm(a=spec), summary="one operand", reference="none")


def test_draws_tell_bias_from_variance():
    """Nearest rounding takes all that is below half the smallest code; SR keeps it on average."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64))
    seen = one_step(model, torch.randn(64, 64))
    dy = next(site for site in seen if site.role is Role.GRAD_OUTPUT)
    # In each block one large number, and fifteen that nearest rounding makes zero.
    seen[dy] = torch.full((64, 64), 0.2)
    seen[dy][:, ::16] = 6.0
    site = view(model, seen, "0", Role.GRAD_OUTPUT, draw=1)
    nearest = numbers(observed(GradientFidelity(only("nearest-even")), site))
    draws = 32
    found = numbers(observed(GradientFidelity(only("stochastic"), draws=draws), site))
    assert found["dgrad.draws.draws"] == draws
    assert "dgrad.draws.n" not in nearest
    error = found["dgrad.draws.projection_stderr"]
    assert abs(found["dgrad.draws.projection"] - 1) < 5 * error + 1e-4
    assert nearest["dgrad.lost_decrease"] > 10 * error
    assert abs(found["dgrad.draws.squared_bias"]) < found["dgrad.draws.variance"] / 8
    mean_error = found["dgrad.draws.mean_error"]
    assert mean_error == pytest.approx(found["dgrad.draws.variance"] / draws, rel=0.5)


def test_draws_are_its_own_and_reproducible():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16))
    convert(model, "nvfp4-sr", layers="all")
    seen = one_step(model, torch.randn(8, 32))
    generator = model[0].setup.generator
    before = torch.get_rng_state(), generator.get_state()
    probe = GradientFidelity()
    found = [
        numbers(observed(probe, view(model, seen, "0", Role.GRAD_OUTPUT, draw=draw)))
        for draw in (5, 5, 6)
    ]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(generator.get_state(), before[1])
    assert found[0] == found[1]
    assert found[0]["wgrad.cosine"] != found[2]["wgrad.cosine"]


@pytest.mark.parametrize("recipe", [None, "bf16", "nvfp4-fwd"])
def test_where_gradients_are_not_quantized_there_is_nothing_to_see(recipe):
    _, _, seen = trained("linear", None)
    assert observed(GradientFidelity(recipe), seen) is None


def test_only_what_is_quantized_has_keys():
    _, _, seen = trained("linear", "nvfp4")
    recipe = seen.setup.recipe
    without = replace(recipe, name="dgrad-only", wgrad=Gemm())
    found = numbers(observed(GradientFidelity(without), seen))
    assert {key.partition(".")[0] for key in found} == {"n", "dgrad"}


def test_an_empty_batch_shows_nothing():
    model = nn.Sequential(nn.Linear(16, 8))
    seen = one_step(model, torch.randn(0, 16))
    assert observed(GradientFidelity("nvfp4"), view(model, seen, "0", Role.GRAD_OUTPUT)) is None


def test_the_model_is_left_alone():
    model, _, seen = trained("conv", "nvfp4-2d-rht-sr")
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = {role: tensor.clone() for role, tensor in seen.tensors.items()}
    grad = model[0].weight.grad.clone()
    observed(GradientFidelity(), seen)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(tensor, tensors[role]) for role, tensor in seen.tensors.items())
    assert torch.equal(model[0].weight.grad, grad)


def test_it_is_registered_and_asks_for_layers():
    probe = PROBES.get("gradient_fidelity")
    assert isinstance(probe, Probe)
    assert probe.every == 100
    assert probe.selects(Site("a", Role.GRAD_OUTPUT, "conv_transpose3d"))
    assert not probe.selects(Site("a", Role.GRAD_OUTPUT, "norm"))
    assert not probe.selects(Site("a", Role.WEIGHT, "linear"))
    with pytest.raises(InputError, match="at least 2 draws"):
        GradientFidelity(draws=1)
