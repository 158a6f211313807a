"""Quantized layers against plain ones, and against explicit products of dequantized operands."""

import copy
import io
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qprobe.errors import InputError
from qprobe.quant import NVFP4, Operand, QuantSpec, Role, Tile, convert, fake_quantize, recipes
from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.products import faithful

GOLDEN = Path(__file__).parents[1] / "data" / "nvfp4"

RECIPES = [r.name for r in recipes() if r.quantizes]

#: Every kind of layer, with an input it takes. Sizes leave partial blocks almost everywhere.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(40, 24), (2, 9, 40)),
    "linear-vector": (lambda: nn.Linear(40, 24), (40,)),
    "linear-nobias": (lambda: nn.Linear(32, 48, bias=False), (32, 32)),
    "conv1d": (lambda: nn.Conv1d(20, 24, 3, padding=1), (2, 20, 11)),
    "conv2d": (lambda: nn.Conv2d(20, 36, 3, stride=2, padding=1), (3, 20, 9, 8)),
    "conv2d-4x4": (lambda: nn.Conv2d(32, 16, 4, stride=2, padding=1), (2, 32, 8, 8)),
    "conv2d-1x1": (lambda: nn.Conv2d(24, 20, 1), (2, 24, 5, 7)),
    "conv2d-grouped": (lambda: nn.Conv2d(36, 40, 3, padding=1, groups=2), (2, 36, 6, 6)),
    "conv2d-depthwise": (lambda: nn.Conv2d(24, 24, 3, padding=1, groups=24), (2, 24, 6, 6)),
    "conv2d-dilated-same": (
        lambda: nn.Conv2d(20, 18, (3, 2), padding="same", dilation=2),
        (2, 20, 7, 9),
    ),
    "conv2d-valid": (lambda: nn.Conv2d(20, 18, 3, padding="valid"), (2, 20, 7, 9)),
    "conv2d-reflect": (
        lambda: nn.Conv2d(20, 18, 3, padding=1, padding_mode="reflect"),
        (2, 20, 7, 9),
    ),
    "conv2d-circular": (
        lambda: nn.Conv2d(20, 18, 3, padding=1, padding_mode="circular"),
        (2, 20, 7, 9),
    ),
    "conv2d-unbatched": (lambda: nn.Conv2d(20, 18, 3), (20, 7, 9)),
    "conv3d": (lambda: nn.Conv3d(18, 20, 3, padding=1), (2, 18, 4, 5, 3)),
    "transpose1d": (lambda: nn.ConvTranspose1d(20, 24, 4, stride=2, padding=1), (2, 20, 7)),
    "transpose2d": (lambda: nn.ConvTranspose2d(36, 20, 4, stride=2, padding=1), (2, 36, 4, 5)),
    "transpose2d-grouped": (
        lambda: nn.ConvTranspose2d(36, 40, 3, stride=2, output_padding=1, groups=2),
        (2, 36, 4, 5),
    ),
    "transpose2d-depthwise": (
        lambda: nn.ConvTranspose2d(20, 20, 2, stride=2, groups=20),
        (2, 20, 4, 5),
    ),
    "transpose3d": (lambda: nn.ConvTranspose3d(18, 20, 2, stride=2, dilation=2), (2, 18, 3, 2, 3)),
}


def make(case: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A layer, an input, and a gradient for its output."""
    build, shape = CASES[case]
    g = torch.Generator().manual_seed(len(case))
    layer = build()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / math.sqrt(p[0].numel()))
    x = torch.randn(shape, generator=g)
    dy = torch.randn(layer(x).shape, generator=g)
    return layer, x, dy


def run(layer: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(dy)
    assert x.grad is not None
    grads = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "dx": x.grad, **grads}


def identity(x: Tensor, operand: Operand, role: Role, generator: object) -> Tensor:
    return x


def put_under(layer: nn.Module, recipe: str, quantizer: object = None) -> QuantizedLayer:
    convert(layer, recipe, layers="all")
    assert isinstance(layer, QuantizedLayer)
    if quantizer is not None:
        layer.setup = replace(layer.setup, quantizer=quantizer)  # type: ignore[arg-type]
    return layer


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("case", CASES)
def test_with_an_identity_for_a_format_everything_equals_the_plain_layer(
    case: str, recipe: str
) -> None:
    layer, x, dy = make(case)
    plain = run(layer, x, dy)
    ours = run(put_under(layer, recipe, identity), x, dy)
    assert ours.keys() == plain.keys()
    for key, want in plain.items():
        torch.testing.assert_close(ours[key], want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


def expected_operand(layer: nn.Module, role: Role, x: Tensor, spec: QuantSpec) -> Tensor:
    """The operand quantized by moving its contraction axis last and making it a matrix.

    Written from the definition, group by group; ``fake_quantize`` of a matrix is proven elsewhere.
    The tensor's largest magnitude rides along in a row of its own, since groups share it.
    """
    groups = getattr(layer, "groups", 1)
    transposed = "Transpose" in type(layer).__name__
    linear = isinstance(layer, nn.Linear)
    parts = x.chunk(groups, 0 if role.operand == "w" else min(1, x.dim() - 1))
    done = []
    for part in parts:
        if role.gemm == "wgrad":  # tokens, or batch and positions, per channel
            moved = part.reshape(-1, part.shape[-1]).T if linear else part.movedim(1, 0)
        elif role.operand != "w":  # channels of one token or position
            moved = part if linear else part.movedim(1, -1)
        else:
            over_second = (role.gemm == "fprop") != transposed
            moved = part.movedim(1, -1) if over_second else part.movedim(0, -1)
        matrix = (
            moved.reshape(moved.shape[0], -1)
            if role.gemm == "wgrad"
            else moved.reshape(-1, moved.shape[-1])
        )
        if spec.tile is Tile.TWO_D:
            over_second = (role.gemm == "fprop") != transposed
            values = two_d(part, x.abs().max(), 1 if over_second else 0)
            done.append(values)
            continue
        values = with_amax(matrix, spec, x.abs().max()).view(moved.shape)
        if role.gemm == "wgrad":
            done.append(values.T.reshape(part.shape) if linear else values.movedim(0, 1))
        elif role.operand != "w":
            done.append(values if linear else values.movedim(-1, 1))
        else:
            over_second = (role.gemm == "fprop") != transposed
            done.append(values.movedim(-1, 1) if over_second else values.movedim(-1, 0))
    return torch.cat(done, 0 if role.operand == "w" else min(1, x.dim() - 1))


def with_amax(matrix: Tensor, spec: QuantSpec, amax: Tensor) -> Tensor:
    row = torch.zeros(1, matrix.shape[1])
    row[0, 0] = amax
    return fake_quantize(torch.cat([matrix, row]), spec, 1)[:-1]


def two_d(w: Tensor, amax: Tensor, axis: int) -> Tensor:
    out = torch.empty_like(w)
    for tap in itertools.product(*(range(n) for n in w.shape[2:])):
        index = (slice(None), slice(None), *tap)
        rows, columns = -(-w.shape[0] // 16) * 16, -(-w.shape[1] // 16) * 16
        padded = torch.zeros(rows + 16, columns + 16)
        padded[: w.shape[0], : w.shape[1]] = w[index]
        padded[-1, -1] = amax
        spec = QuantSpec(format=NVFP4, tile=Tile.TWO_D)
        out[index] = fake_quantize(padded, spec, axis)[: w.shape[0], : w.shape[1]]
    return out


def plain_product(layer: nn.Module, x: Tensor, w: Tensor) -> Tensor:
    """The layer's own arithmetic, with these operands, no bias, in float64."""
    twin = copy.deepcopy(layer).double()
    twin.bias = None
    weight = w.double()
    return torch.func.functional_call(twin, {"weight": weight}, (x.double(),))


@pytest.mark.parametrize("recipe", ["nvfp4", "nvfp4-fwd", "nvfp4-chain", "nvfp4-2d-rht"])
@pytest.mark.parametrize(
    "case", [c for c in CASES if c not in {"linear-vector", "conv2d-unbatched"}]
)
def test_each_product_is_the_explicit_product_of_its_dequantized_operands(
    case: str, recipe: str
) -> None:
    layer, x, dy = make(case)
    if getattr(layer, "padding_mode", "zeros") != "zeros" or getattr(layer, "padding", 0) == "same":
        x = F.pad(
            x,
            layer._reversed_padding_repeated_twice,
            mode=(  # type: ignore[arg-type]
                "constant" if layer.padding_mode == "zeros" else layer.padding_mode  # type: ignore[arg-type]
            ),
        )
        layer.padding, layer.padding_mode = (0, 0), "zeros"  # type: ignore[assignment]
    w = layer.weight.detach()  # type: ignore[operator, union-attr]
    plain = copy.deepcopy(layer)
    got = run(put_under(layer, recipe), x, dy)
    rule = layer.recipe  # type: ignore[union-attr]

    def take(gemm: str, operand: str, tensor: Tensor) -> Tensor:
        product = getattr(rule, gemm)
        how = product.a if operand == {"fprop": "x"}.get(gemm, "dy") else product.b
        if how is None:
            return tensor
        if not isinstance(how, QuantSpec):
            return take("fprop", operand, tensor)
        if product.hadamard:
            return recorded[gemm, operand]
        return expected_operand(plain, Role(gemm, operand), tensor, how)

    recorded: dict[tuple[str, str], Tensor] = {}
    if rule.wgrad.hadamard:
        recorded = rotated_operands(plain, rule.name, x, dy)
    bias = (
        0
        if plain.bias is None
        else plain.bias.detach().view(  # type: ignore[union-attr, operator]
            -1, *[1] * (0 if isinstance(plain, nn.Linear) else x.dim() - 2)
        )
    )
    y = plain_product(plain, take("fprop", "x", x), take("fprop", "w", w)) + bias
    scale = y.abs().max().item()
    torch.testing.assert_close(got["y"].double(), y.double(), rtol=0, atol=1e-6 * scale + 1e-6)

    point = torch.zeros_like(x).double().requires_grad_()
    plain_product(plain, point, take("dgrad", "w", w)).backward(take("dgrad", "dy", dy).double())
    assert point.grad is not None
    atol = 2e-6 * point.grad.abs().max().item()
    torch.testing.assert_close(got["dx"].double(), point.grad, rtol=0, atol=atol)

    weight = torch.zeros_like(w).double().requires_grad_()
    plain_product(plain, take("wgrad", "x", x), weight).backward(take("wgrad", "dy", dy).double())
    assert weight.grad is not None
    atol = 2e-6 * weight.grad.abs().max().item()
    torch.testing.assert_close(got["weight"].double(), weight.grad, rtol=0, atol=atol)


def rotated_operands(
    layer: nn.Module, recipe: str, x: Tensor, dy: Tensor
) -> dict[tuple[str, str], Tensor]:
    """wgrad's operands: zero-fill, rotate, quantize, rotate back, cut, by matrices in float64."""
    from qprobe.quant import rotate

    result = {}
    for operand, tensor in (("dy", dy), ("x", x)):
        moved = (
            tensor.reshape(-1, tensor.shape[-1]).T
            if isinstance(layer, nn.Linear)
            else tensor.movedim(1, 0)
        )
        matrix = moved.reshape(moved.shape[0], -1)
        filled = F.pad(matrix, (0, -matrix.shape[1] % 16))
        quantized = fake_quantize(rotate(filled, 1), QuantSpec(format=NVFP4), 1)
        back = rotate(quantized, 1, inverse=True)[:, : matrix.shape[1]].reshape(moved.shape)
        result["wgrad", operand] = (
            back.T.reshape(tensor.shape) if isinstance(layer, nn.Linear) else back.movedim(0, 1)
        )
    return result


@pytest.mark.parametrize("kind", ["plain", "2d_rht"])
def test_a_linear_layer_is_transformer_engines(kind: str, implementation: str) -> None:
    """Forward and both gradients against the reference's own matrix products."""
    with np.load(GOLDEN / f"linear_{kind}_64x64x32.npz", allow_pickle=False) as data:
        golden = {key: torch.from_numpy(data[key]) for key in data.files if key != "meta"}
    recipe = {"plain": "nvfp4", "2d_rht": "nvfp4-2d-rht"}[kind]
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        layer = nn.Linear(64, 32, bias=False)
        layer.weight = nn.Parameter(golden["W"].to(dtype))

        def narrow(x: Tensor, operand: Operand, role: Role, generator: object) -> Tensor:
            return faithful(x.bfloat16(), operand, role, None)  # exact: these are bfloat16 values

        put_under(layer, recipe, narrow if dtype is torch.float32 else None)
        results[dtype] = run(layer, golden["X"].to(dtype), golden["G"].to(dtype))
    for key, name in (("y", "y"), ("dx", "dx"), ("weight", "dw")):
        want = golden[name]
        limit = 1e-6 * want.abs().max().item()
        torch.testing.assert_close(results[torch.float32][key], want, rtol=0, atol=limit)
        low = results[torch.bfloat16][key]
        assert (low == want.bfloat16()).float().mean() > 0.99


def test_a_pointwise_convolution_is_a_linear_layer_in_every_recipe() -> None:
    """1×1: the convolution's three products and the linear layer's agree to rounding."""
    for name in RECIPES:
        if "sr" in name or name.startswith("int"):  # other draws; other sharing of scales
            continue
        g = torch.Generator().manual_seed(0)
        conv, linear = nn.Conv2d(48, 32, 1), nn.Linear(48, 32)
        linear.load_state_dict(
            {"weight": conv.weight.detach().flatten(1), "bias": conv.bias.detach()}
        )  # type: ignore[union-attr]
        x, dy = torch.randn(2, 48, 4, 8, generator=g), torch.randn(2, 32, 4, 8, generator=g)
        ours = run(put_under(conv, name), x, dy)
        theirs = run(put_under(linear, name), x.movedim(1, -1), dy.movedim(1, -1))
        for key in ("y", "dx"):
            torch.testing.assert_close(ours[key], theirs[key].movedim(-1, 1), rtol=0, atol=2e-5)
        torch.testing.assert_close(ours["weight"].flatten(1), theirs["weight"], rtol=0, atol=2e-5)


def test_integer_granularities_by_layer() -> None:
    """Who shares a scale in which layer, seen in what a quantizer is asked for."""
    seen: dict[str, tuple[object, object]] = {}

    def spy(x: Tensor, operand: Operand, role: Role, generator: object) -> Tensor:
        seen[role.operand] = (operand.spec.granularity.value, operand.axes)
        return x

    def ask(case: str, recipe: str) -> dict[str, tuple[object, object]]:
        layer, x, _ = make(case)
        put_under(layer, recipe, spy)(x)
        return dict(seen)

    assert ask("linear", "int4-channel-token") == {"x": ("token", (1,)), "w": ("channel", (0,))}
    assert ask("linear", "int4-adaptive") == {"x": ("token", (1,)), "w": ("channel", (0,))}
    assert ask("linear", "int4-tensor")["x"][0] == "tensor"
    assert ask("conv2d", "int4-channel-token") == {
        "x": ("channel", (1, 2)),
        "w": ("channel", (0, 1)),
    }
    assert ask("conv2d", "int4-adaptive")["x"] == ("channel", (1, 2))
    assert ask("conv2d-1x1", "int4-adaptive")["x"] == ("voxel", (2,))
    assert ask("conv2d-1x1", "int4-channel-token")["x"] == ("channel", (1, 2))
    assert ask("conv2d-depthwise", "int4-adaptive")["x"] == ("channel", (1, 2))
    assert ask("transpose2d", "int4-channel-token")["w"] == ("channel", (0, 2))


def test_integer_weights_have_a_scale_per_output_channel() -> None:
    for case in ("linear", "conv2d-grouped", "transpose2d-grouped"):
        layer, x, _ = make(case)
        w = layer.weight.detach()  # type: ignore[operator, union-attr]
        axis = 1 if "transpose" in case else 0
        groups = getattr(layer, "groups", 1)
        per_output = torch.cat(
            [
                fake_quantize(part, QuantSpec(format=recipes()[9].fprop.b.format), axis)  # type: ignore[union-attr]
                for part in (w.chunk(groups, 0) if axis == 1 else [w])
            ]
        )
        ones = torch.ones_like(x)
        put_under(layer, "int8-channel-token")
        layer.bias = None
        plain = copy.deepcopy(make(case)[0])
        plain.bias = None
        want = torch.func.functional_call(plain, {"weight": per_output}, (ones,))
        torch.testing.assert_close(layer(ones), want, rtol=1e-5, atol=1e-5)


class TestAutocast:
    def test_bf16_products_are_exact_sums_rounded_once(self) -> None:
        layer, x, _ = make("linear")
        put_under(layer, "nvfp4")
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype is torch.bfloat16
        xb, wb = x.bfloat16(), layer.weight.detach().bfloat16()  # type: ignore[operator, union-attr]
        spec = QuantSpec(format=NVFP4)
        exact = (
            fake_quantize(xb.float(), spec, -1).double()
            @ fake_quantize(wb.float(), spec, 1).double().T
        )
        want = exact.float().bfloat16() + layer.bias.detach().bfloat16()  # type: ignore[operator, union-attr]
        assert (y == want).float().mean() > 0.99  # a sum on a rounding boundary may fall either way
        torch.testing.assert_close(y, want, rtol=0.01, atol=0.01)

    def test_gradients_have_the_parameters_dtype_also_inside_the_region(self) -> None:
        layer, x, dy = make("conv2d")
        put_under(layer, "nvfp4-2d-rht-sr")
        x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            layer(x).backward(dy.bfloat16())
        assert layer.weight.grad.dtype is torch.float32  # type: ignore[operator, union-attr]
        assert x.grad.dtype is torch.float32  # type: ignore[union-attr]

    def test_backward_inside_or_outside_the_region_is_the_same(self) -> None:
        grads = []
        for inside in (True, False):
            layer, x, dy = make("linear")
            put_under(layer, "nvfp4")
            with torch.autocast("cpu", torch.bfloat16):
                y = layer(x)
                if inside:
                    y.backward(dy.bfloat16())
            if not inside:
                y.backward(dy.bfloat16())
            grads.append(layer.weight.grad)  # type: ignore[union-attr]
        assert torch.equal(*grads)

    def test_mixed_dtypes_without_autocast_are_refused(self) -> None:
        layer, x, _ = make("linear")
        put_under(layer, "nvfp4")
        with pytest.raises(
            InputError, match=r"input is torch\.bfloat16 and the weight torch\.float32"
        ):
            layer(x.bfloat16())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_other_dtypes(self, dtype: torch.dtype) -> None:
        layer, x, dy = make("conv2d")
        got = run(put_under(layer.to(dtype), "nvfp4"), x.to(dtype), dy.to(dtype))
        twin, x, dy = make("conv2d")
        with torch.no_grad():
            for p in twin.parameters():
                p.copy_(p.to(dtype).float())
        want = run(put_under(twin, "nvfp4"), x.to(dtype).float(), dy.to(dtype).float())
        for key in want:
            assert got[key].dtype is dtype
            torch.testing.assert_close(got[key].float(), want[key], rtol=0.02, atol=0.02)


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(20, 24, 3, padding=1),
        nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(2), nn.Linear(36, 17), nn.Linear(17, 5),
    )  # fmt: skip


def step(
    model: nn.Module, x: Tensor, forward: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Tensor]:
    model.zero_grad()
    loss = (forward or model)(x).square().mean()
    loss.backward()
    return {
        "loss": loss.detach(),
        **{n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("recipe", ["nvfp4", "nvfp4-2d-rht-sr", "int4-adaptive", "nvfp4-chain"])
class TestFits:
    """Everything a training loop does to a model."""

    def test_deepcopy_computes_the_same_and_shares_nothing(self, recipe: str) -> None:
        model = small_model()
        convert(model, recipe, layers="all")
        twin = copy.deepcopy(model)
        first = step(model, X)
        assert same(first, step(twin, X))
        with torch.no_grad():
            next(twin.parameters()).zero_()
        assert not torch.equal(step(twin, X)["loss"], first["loss"])

    def test_pickled_whole(self, recipe: str) -> None:
        model = small_model()
        convert(model, recipe, layers="all")
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
        assert same(step(model, X), step(twin, X))

    def test_state_dicts_load_both_ways(self, recipe: str) -> None:
        plain, model = small_model(), small_model()
        convert(model, recipe, layers="all")
        assert plain.state_dict().keys() == model.state_dict().keys()
        with torch.no_grad():
            for p in plain.parameters():
                p.mul_(1.5)
        model.load_state_dict(plain.state_dict())
        back = small_model()
        back.load_state_dict(model.state_dict())
        assert same(step(back, X), step(plain, X))

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_activation_checkpointing(self, recipe: str, reentrant: bool) -> None:
        x = X.clone().requires_grad_()
        results = []
        for wrapped in (False, True):
            model = small_model()
            convert(model, recipe, layers="all")
            for module in model:
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()  # it would see each batch twice
            forward = partial(checkpoint, model, use_reentrant=reentrant) if wrapped else None
            results.append(step(model, x, forward))
        assert same(*results)

    def test_gradient_accumulation_adds(self, recipe: str) -> None:
        model = small_model().eval()
        convert(model, recipe, layers="all")
        halves = [step(model, half) for half in X.chunk(2)]
        model = small_model().eval()
        convert(model, recipe, layers="all")
        for half in X.chunk(2):
            model(half).square().mean().backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.grad, halves[0][name] + halves[1][name])

    def test_frozen_inputs_and_weights(self, recipe: str) -> None:
        model = small_model()
        convert(model, recipe, layers="all")
        model[0].requires_grad_(False)
        model[6].requires_grad_(False)
        grads = step(model, X)
        assert "0.weight" not in grads
        assert "6.weight" not in grads
        assert "2.weight" in grads
        with torch.no_grad():
            assert not model(X).requires_grad
        with torch.inference_mode():
            model(X)

    def test_channels_last(self, recipe: str) -> None:
        model, twin = small_model(), small_model().to(memory_format=torch.channels_last)
        convert(model, recipe, layers="all")
        convert(twin, recipe, layers="all")
        a, b = step(model, X), step(twin, X.to(memory_format=torch.channels_last))
        torch.testing.assert_close(a["loss"], b["loss"], rtol=0.02, atol=1e-3)

    def test_a_non_finite_input_reaches_the_loss(self, recipe: str) -> None:
        model = small_model()
        convert(model, recipe, layers="all")
        x = X.clone()
        x[0, 0, 0, 0] = torch.nan
        assert model(x).square().mean().isnan()


def test_a_second_derivative_is_refused() -> None:
    layer, x, _ = make("linear")
    put_under(layer, "nvfp4")
    x.requires_grad_()
    with pytest.raises(InputError, match="no second derivative"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)


def test_wrong_numbers_of_axes_are_named() -> None:
    layer, _, _ = make("conv2d")
    put_under(layer, "nvfp4")
    with pytest.raises(InputError, match=r"Conv2d takes .* 2 axes of space, got \[2, 3\]"):
        layer(torch.ones(2, 3))


def test_transposed_output_size() -> None:
    layer, x, _ = make("transpose2d")
    want = layer(x, output_size=[9, 11]).shape
    put_under(layer, "nvfp4")
    assert layer(x, output_size=[9, 11]).shape == want


def test_the_description_names_the_recipe() -> None:
    layer, _, _ = make("conv2d")
    assert str(put_under(layer, "nvfp4-sr")).endswith("recipe=nvfp4-sr)")
    assert str(layer).startswith("Conv2d(20, 36, kernel_size=(3, 3)")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("recipe", ["nvfp4", "nvfp4-2d-rht-sr", "int4-adaptive"])
def test_compiled(recipe: str) -> None:
    """Graphs break at quantized layers; the numbers stay right."""
    torch.compiler.reset()
    results = []
    for compiled in (False, True):
        model = small_model()
        convert(model, recipe, layers="all")
        results.append(step(model, X, torch.compile(model) if compiled else None))
    for key, want in results[0].items():
        torch.testing.assert_close(results[1][key], want, rtol=1e-4, atol=1e-5)
