"""Which layers a recipe reaches, which it leaves alone, and what it says about it."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from qprobe.errors import InputError
from qprobe.quant import (
    NVFP4,
    Gemm,
    QuantRecipe,
    QuantSpec,
    ScaledDotProduct,
    convert,
    override,
    recipe,
    restored,
)
from qprobe.quant.layers import QUANTIZED, Conv2d, Linear, QuantizedLayer


class Model(nn.Module):
    qprobe_keep = ("mid.*bottleneck*",)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.mid = nn.Sequential()
        self.mid.add_module("a", nn.Conv2d(16, 16, 3))
        self.mid.add_module("bottleneck", nn.Conv2d(16, 16, 1))
        self.norm = nn.BatchNorm2d(16)
        self.shared = nn.Linear(16, 16)
        self.again = self.shared
        self.table = nn.Embedding(5, 16)
        self.mha = nn.MultiheadAttention(16, 2)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.mid(self.stem(x))).mean((2, 3))
        return self.head(self.again(self.shared(x)))  # type: ignore[no-any-return]


def rules(report: Any) -> dict[str, str]:
    return {one.path: one.rule for one in report.left_alone}


def test_mid_leaves_out_first_last_and_what_the_model_keeps() -> None:
    report = convert(Model(), "nvfp4")
    assert report.recipe == "nvfp4"
    assert report.converted == ("mid.a", "shared")
    assert rules(report) == {
        "stem": "first layer",
        "mid.bottleneck": "the model's qprobe_keep: mid.*bottleneck*",
        "table": "embedding",
        "mha": "its projections are used without calling them",
        "mha.out_proj": "a subclass of Linear with behaviour of its own",
        "head": "last layer",
    }


def test_all_leaves_out_what_cannot_be_converted() -> None:
    report = convert(Model(), "nvfp4", layers="all")
    assert report.converted == ("stem", "mid.a", "mid.bottleneck", "shared", "head")
    assert set(rules(report)) == {"table", "mha", "mha.out_proj"}


def test_skip_holds_also_under_all_and_override_comes_last() -> None:
    careful = QuantRecipe(
        name="careful",
        fprop=recipe("nvfp4").fprop,
        skip=("*head", "mid.*"),
        summary="s",
        reference="r",
    )
    model = Model()
    report = convert(model, careful, layers="all")
    assert report.converted == ("stem", "shared")
    assert rules(report)["head"] == "the recipe's skip: *head"
    report = override(model, {"mid.*": "int8-tensor", "mid.a": "nvfp4-sr", "stem": "bf16"})
    assert (
        report.recipe == "int8-tensor + nvfp4-sr + bf16"
        or report.recipe == "nvfp4-sr + int8-tensor + bf16"
    )
    assert model.mid.a.recipe.name == "nvfp4-sr"
    assert model.mid.bottleneck.recipe.name == "int8-tensor"
    assert type(model.stem) is nn.Conv2d
    assert model.shared.recipe.name == "careful"
    assert rules(report) == {"stem": "override: bf16"}


def test_the_report_reads_well() -> None:
    text = str(convert(Model(), "nvfp4-fwd"))
    assert text.splitlines()[:4] == [
        "nvfp4-fwd: 2 layers converted", "  mid.a", "  shared", "6 left in high precision",
    ]  # fmt: skip
    assert "  mha (MultiheadAttention): its projections are used without calling them" in text


def test_a_layer_keeps_its_identity_parameters_hooks_and_mode() -> None:
    model = Model().eval()
    layer, weight, seen = model.mid.a, model.mid.a.weight, []
    layer.register_forward_hook(lambda *_: seen.append(1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    names = [name for name, _ in model.named_parameters()]
    convert(model, "nvfp4")
    assert model.mid.a is layer
    assert type(layer) is Conv2d
    assert isinstance(layer, nn.Conv2d)
    assert layer.weight is weight
    assert not layer.training
    assert model.again is model.shared
    assert [name for name, _ in model.named_parameters()] == names
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert seen == [1]
    before = weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, weight)


def test_bf16_gives_the_plain_model_back() -> None:
    model = Model().eval()
    twin = copy.deepcopy(model)
    convert(model, "nvfp4-sr", layers="all")
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(model(x), twin(x))
    report = convert(model, "bf16", layers="all")
    assert report.converted == ()
    assert rules(report)["mid.a"] == "the recipe quantizes nothing"
    assert torch.equal(model(x), twin(x))
    assert [type(m) for m in model.modules()] == [type(m) for m in twin.modules()]
    assert not any("setup" in vars(m) for m in model.modules())


def test_converting_again_replaces_the_recipe() -> None:
    model = Model()
    convert(model, "nvfp4", layers="all")
    report = convert(model, "int4-tensor")
    assert report.converted == ("mid.a", "shared")
    assert type(model.stem) is nn.Conv2d
    assert model.shared.recipe.name == "int4-tensor"


def test_a_single_layer_is_first_and_last_and_can_be_converted_itself() -> None:
    layer = nn.Linear(16, 16)
    assert convert(layer, "nvfp4").converted == ()
    report = convert(layer, "nvfp4", layers="all")
    assert report.converted == ("",)
    assert type(layer) is Linear


def test_every_plain_layer_has_its_quantized_one() -> None:
    for plain, quantized in QUANTIZED.items():
        assert issubclass(quantized, plain)
        assert quantized.__name__ == plain.__name__


def test_one_generator_serves_all_layers_and_its_state_is_everything() -> None:
    def losses(generator: torch.Generator | None, state: Tensor | None = None) -> list[float]:
        torch.manual_seed(0)
        model = Model().eval()
        convert(model, "nvfp4-sr", layers="all", generator=generator)
        if state is not None and generator is not None:
            generator.set_state(state)
        model(torch.ones(2, 3, 8, 8) * torch.arange(8.0)).square().sum().backward()
        return [p.grad.double().sum().item() for p in model.parameters() if p.grad is not None]

    g = torch.Generator().manual_seed(3)
    state = g.get_state()
    first = losses(g)
    assert losses(g) != first
    assert losses(g, state) == first
    assert losses(None) == losses(None)


def test_override_uses_the_generator_in_use() -> None:
    model = Model()
    g = torch.Generator().manual_seed(3)
    convert(model, "nvfp4-sr", generator=g)
    override(model, {"head": "nvfp4-2d-rht-sr"})
    assert model.head.setup.generator is g


def test_refusals() -> None:
    with pytest.raises(InputError, match="layers is 'mid' or 'all', got 'some'"):
        convert(Model(), "nvfp4", layers="some")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"a model is a torch\.nn\.Module, got a str"):
        convert("model", "nvfp4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"generator is a torch\.Generator, got 3"):
        override(Model(), {"head": "bf16"}, generator=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no recipe called 'nvfp5'"):
        convert(Model(), "nvfp5")
    with pytest.raises(
        InputError, match=r"no convertible layer matches 'hed'; there are stem, mid\.a"
    ):
        override(Model(), {"hed": "bf16"})
    with pytest.raises(InputError, match="there are none at all"):
        override(nn.ReLU(), {"*": "bf16"})


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.attend = ScaledDotProduct()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4)
        return self.attend(q, k, v)  # type: ignore[no-any-return]


def test_attention_is_converted_only_where_the_recipe_has_it() -> None:
    model = Attention()
    report = convert(model, "nvfp4", layers="all")
    assert rules(report)["attend"] == "the recipe has no attention products"
    rule = QuantRecipe(
        name="attended", attention=Gemm(a=QuantSpec(format=NVFP4), b=QuantSpec(format=NVFP4)),
        summary="s", reference="r",
    )  # fmt: skip
    report = convert(model, rule, layers="all")
    assert report.converted == ("attend",)
    assert "attended" in str(model.attend)
    report = convert(model, "bf16", layers="all")
    assert type(model.attend) is ScaledDotProduct
    with pytest.raises(
        InputError, match=r"attended quantizes attention products, and the model has no"
    ):
        convert(nn.Linear(4, 4), rule)


ATTENDED = QuantRecipe(
    name="attended",
    attention=Gemm(a=QuantSpec(format=NVFP4), b=QuantSpec(format=NVFP4)),
    summary="s",
    reference="r",
)


def test_skip_and_override_reach_attention() -> None:
    model = Attention()
    report = convert(model, replace(ATTENDED, skip=("att*",)), layers="all")
    assert report.converted == ()
    assert rules(report)["attend"] == "the recipe's skip: att*"
    assert override(model, {"attend": ATTENDED}).converted == ("attend",)
    assert "attended" in str(model.attend)
    assert rules(override(model, {"attend": "bf16"})) == {"attend": "override: bf16"}
    assert type(model.attend) is ScaledDotProduct


def test_a_refused_recipe_changes_nothing() -> None:
    layer = nn.Linear(16, 16)
    with pytest.raises(InputError, match="the model has no"):
        convert(layer, replace(ATTENDED, fprop=recipe("nvfp4").fprop), layers="all")
    assert type(layer) is nn.Linear


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("masked", [False, True])
def test_pytorchs_encoder_does_not_bypass_its_layers(masked: bool) -> None:
    """In eval mode and without gradients its fused kernel would read the weights directly."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 32, generator=g)
    mask = (torch.arange(6) >= torch.tensor([[6], [4]])) if masked else None
    seen = mask is None or ~mask

    def difference(other: Tensor) -> float:
        with torch.no_grad():
            return (model(x, src_key_padding_mask=mask) - other)[seen].abs().max().item()

    plain = model(x, src_key_padding_mask=mask).detach()
    convert(model, "nvfp4", layers="all")
    quantized = model(x, src_key_padding_mask=mask).detach()
    assert (quantized - plain).abs().max() > 0.01
    assert difference(quantized) < 1e-6
    convert(model, "bf16", layers="all")
    assert difference(plain) < 1e-5
    assert model.use_nested_tensor
    assert model.layers[0].activation_relu_or_gelu == 1
    override(model, {"layers.1.linear1": "nvfp4"})
    assert model.layers[0].activation_relu_or_gelu == 1
    assert model.layers[1].activation_relu_or_gelu == 0


def test_override_tells_recipes_of_one_name_apart_and_gives_all_one_generator() -> None:
    model = Model()
    ours, theirs = recipe("nvfp4-sr"), replace(recipe("nvfp4-2d-rht-sr"), name="nvfp4-sr")
    override(model, {"stem": ours, "head": theirs})
    assert model.stem.recipe is ours
    assert model.head.recipe is theirs
    assert model.stem.setup.generator is model.head.setup.generator


class Times(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.bias = nn.Parameter(torch.ones(4))


def test_what_multiplies_by_itself_is_listed() -> None:
    model = nn.Sequential(Times(), nn.LazyLinear(4), nn.LayerNorm(4), Times())
    assert rules(convert(model, "nvfp4")) == {
        "0": "uses weight in code of its own",
        "1": "its shape is not known yet: run a batch through the model first",
        "3": "uses weight in code of its own",
    }


def test_what_was_wrapped_after_it_was_converted_can_no_longer_change() -> None:
    model = Model()
    parametrizations.weight_norm(model.shared)
    report = convert(model, "nvfp4", layers="all")
    assert rules(report)["shared"] == "a subclass of Linear with behaviour of its own"
    parametrizations.weight_norm(model.head)
    with pytest.raises(InputError, match=r"head became a ParametrizedLinear .* under nvfp4, which"):
        convert(model, "bf16", layers="all")
    assert model.stem.recipe.name == "nvfp4"
    override(model, {"stem": "bf16"})
    with pytest.raises(InputError, match="can no longer change"):
        override(model, {"head": "bf16"})


def test_a_wrapper_keeps_what_the_model_keeps() -> None:
    report = convert(nn.Sequential(nn.Linear(3, 3), Model(), nn.Linear(2, 2)), "nvfp4")
    assert rules(report)["1.mid.bottleneck"] == ("the model's qprobe_keep: 1.mid.*bottleneck*")
    model = Model()
    model.qprobe_keep = "head"  # type: ignore[assignment]
    with pytest.raises(InputError, match="qprobe_keep of Model is 'head'; make it a tuple"):
        convert(model, "nvfp4")


def test_tied_weights_stay_tied() -> None:
    table, head = nn.Embedding(20, 16), nn.Linear(16, 20, bias=False)
    head.weight = table.weight
    model = nn.Sequential(table, nn.Linear(16, 16), head)
    assert rules(convert(model, "nvfp4", layers="all")) == {"0": "embedding"}
    assert head.weight is table.weight
    model(torch.arange(20)).square().sum().backward()
    assert table.weight.grad is not None


def test_a_restored_layer_comes_back_with_its_own_quantizer_after_an_error():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    convert(model, "nvfp4", layers="all")
    override(model, {"1": "int4-tensor"})
    setups = [layer.setup for layer in model]
    with pytest.raises(ZeroDivisionError), restored(model, ["0", "1"]):
        _ = 1 / sum(type(layer) is not nn.Linear for layer in model)
    assert [layer.setup for layer in model] == setups
    with pytest.raises(InputError, match="'2' is no quantized layer; there are 0, 1"):
        restored(model, ["2"]).__enter__()
    with restored(model, ["0"]):
        assert isinstance(model[1], QuantizedLayer)
