"""Against products worked out by hand, and against differences taken one layer at a time."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qprobe.analyzers.base import Subject
from qprobe.analyzers.dequantization.layers import quantized_layers
from qprobe.analyzers.dequantization.screen import chain_rule, fisher, screen, signed
from qprobe.analyzers.scores import MeanLoss
from qprobe.models import build
from qprobe.quant import ScaledDotProduct, convert, recipe


def of(model: nn.Module, batches: list, loss, name: str = "int4-tensor") -> Subject:
    return Subject(
        model=model,
        recipe=recipe(name),
        batches=lambda: batches,
        loss=loss,
        score=MeanLoss(loss=loss),
    )


def squared(output: Tensor, batch) -> Tensor:
    return (output - batch[1]).flatten(1).square().sum(1)


def test_one_linear_layer_by_hand():
    """x = (7, 1.4) is (7, 1) in INT4; w = (0.7, 0.12) is (0.7, 0.1): y_q = 5, y = 5.068."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False)).eval()
    model[0].weight.data = torch.tensor([[0.7, 0.12]])
    convert(model, "int4-tensor", layers="all")
    batch = (torch.tensor([[7.0, 1.4]]), torch.tensor([[4.0]]))
    found = screen(of(model, [batch], squared), quantized_layers(model))["0"]
    g = 2 * (5.0 - 4.0)
    assert found.products["x"] == pytest.approx([g * 0.4 * 0.1], rel=1e-5)  # op(x − x_q, w_q)
    assert found.products["w"] == pytest.approx([g * 1 * 0.02], rel=1e-5)  # op(x_q, w − w_q)
    s = g * (0.04 + 0.02)
    assert found.value == pytest.approx(s + 0.5 * s * s, rel=1e-5)


def explicit(model: nn.Module, batch, loss) -> dict[str, dict[str, np.ndarray]]:
    """Slow and direct: gradients at outputs by autograd, changes by products of their own."""
    layers = quantized_layers(model)
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for path, layer in layers.items():

        def hook(module, args, output, path=path):
            output.retain_grad()
            seen[path] = [args[0].detach(), output]

        handles.append(layer.module.register_forward_hook(hook))
    setups = {layer.module: layer.module.setup for layer in layers.values()}
    for module, setup in setups.items():
        module.setup = type(setup)(recipe=chain_rule(setup.recipe), quantizer=setup.quantizer)
    loss(model(batch[0]), batch).sum().backward()
    for handle in handles:
        handle.remove()
    found = {}
    for path, layer in layers.items():
        module, (x, y) = layer.module, seen[path]
        noted = {}

        def note(t, operand, role, generator, noted=noted, real=setups[module].quantizer):
            noted[role.operand] = real(t, operand, role, generator)
            return noted[role.operand]

        module.setup = type(setups[module])(recipe=setups[module].recipe, quantizer=note)
        type(module).forward(module, x)
        module.setup = setups[module]
        x_q, w_q = noted["x"].reshape(x.shape), noted["w"].reshape(module.weight.shape)
        samples = len(batch[0])
        change_x = product(module, x - x_q, w_q)
        change_w = product(module, x_q, module.weight.detach() - w_q)
        found[path] = {
            name: (y.grad * change).double().reshape(samples, -1).sum(1).numpy()
            for name, change in (("x", change_x), ("w", change_w))
        }
    model.zero_grad()
    return found


def product(module: nn.Module, x: Tensor, w: Tensor) -> Tensor:
    if isinstance(module, nn.Linear):
        return nn.functional.linear(x, w)
    op = nn.functional.conv_transpose2d if module.transposed else nn.functional.conv2d
    return op(x, w, None, module.stride, module.padding)


@pytest.mark.parametrize("name", ["nvfp4", "int4-channel-token", "nvfp4-2d-rht-sr"])
@pytest.mark.parametrize("arch", ["cnn", "vit", "swin"])
def test_every_layer_against_the_definition(arch, name):
    model = build(arch, "tiny", image=32, in_channels=1).eval()
    convert(model, name, layers="all")
    batch = (torch.randn(3, 1, 32, 32), torch.randn(3, 1, 32, 32))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = screen(of(model, [batch], squared, name), quantized_layers(model))
    expected = explicit(model, batch, squared)
    assert found.keys() == expected.keys()
    for path, parts in expected.items():
        for operand, values in parts.items():
            scale = np.abs(values).max() + 1e-6
            difference = found[path].products[operand] - values
            assert np.abs(difference).max() < 1e-3 * scale, (path, operand)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_layer_called_twice_adds_up_before_it_is_squared():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.layer(x)

    model = Twice().eval()
    convert(model, "int4-tensor", layers="all")
    once = nn.Sequential(nn.Linear(4, 4, bias=False)).eval()
    once[0].weight.data = model.layer.weight.data
    convert(once, "int4-tensor", layers="all")
    x = torch.randn(5, 4)
    total = lambda output, batch: output.sum(1)  # noqa: E731
    twice = screen(of(model, [(x,)], total), quantized_layers(model))["layer"].total
    single = screen(of(once, [(x,)], total), quantized_layers(once))["0"].total
    assert twice == pytest.approx(2 * single)


def test_attention_has_no_operands_of_a_layer():
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.product = ScaledDotProduct()

        def forward(self, x: Tensor) -> Tensor:
            return self.product(x, x, x)

    model = Attends().eval()
    x = torch.randn(2, 1, 16, 16)
    plain = model(x)
    from dataclasses import replace

    nvfp4 = recipe("nvfp4")
    convert(model, replace(nvfp4, attention=nvfp4.fprop), layers="all")
    with torch.no_grad():
        change = (plain - model(x)).flatten(1).sum(1).double().numpy()
    total = lambda output, batch: output.flatten(1).sum(1)  # noqa: E731
    found = screen(of(model, [(x,)], total), quantized_layers(model))["product"]
    assert list(found.products) == ["both"]
    assert found.total == pytest.approx(change, rel=1e-4)


def test_a_layer_without_gradient_has_no_entry():
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.kept = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.kept(self.cut(x).detach())

    model = Cut().eval()
    convert(model, "int4-tensor", layers="all")
    found = screen(
        of(model, [(torch.randn(2, 4), torch.zeros(2, 4))], squared), quantized_layers(model)
    )
    assert list(found) == ["kept"]


def test_signed_cancels_and_fisher_does_not():
    assert signed(np.array([1.0, -1.0])) == 0.0
    assert fisher(np.array([1.0, -1.0])) == 0.5
