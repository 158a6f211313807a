"""That the operands a probe judges are those that the layer multiplies, to the bit."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from qprobe.errors import InputError
from qprobe.probes.base import SiteView
from qprobe.probes.block_scales import BlockScales
from qprobe.probes.operand_error import OperandError
from qprobe.probes.operands import taken, wanted
from qprobe.quant import convert, recipe
from qprobe.quant.products import Setup, faithful
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.stats import additive

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(40, 24), (2, 9, 40)),
    "linear-vector": (lambda: nn.Linear(40, 24), (40,)),
    "conv1d": (lambda: nn.Conv1d(20, 24, 3, padding=1), (2, 20, 11)),
    "conv2d": (lambda: nn.Conv2d(20, 36, 3, stride=2, padding=1), (3, 20, 9, 8)),
    "conv2d-1x1": (lambda: nn.Conv2d(24, 20, 1), (2, 24, 5, 7)),
    "conv2d-grouped": (lambda: nn.Conv2d(36, 40, 3, padding=1, groups=2), (2, 36, 6, 6)),
    "conv2d-depthwise": (lambda: nn.Conv2d(24, 24, 3, padding=1, groups=24), (2, 24, 6, 6)),
    "conv2d-same": (lambda: nn.Conv2d(20, 18, (3, 2), padding="same", dilation=2), (2, 20, 7, 9)),
    "conv2d-reflect": (
        lambda: nn.Conv2d(20, 18, 3, padding=1, padding_mode="reflect"),
        (2, 20, 7, 9),
    ),
    "conv2d-unbatched": (lambda: nn.Conv2d(20, 18, 3), (20, 7, 9)),
    "conv3d": (lambda: nn.Conv3d(18, 20, 3, padding=1), (2, 18, 4, 5, 3)),
    "transpose1d": (lambda: nn.ConvTranspose1d(20, 24, 4, stride=2, padding=1), (2, 20, 7)),
    "transpose2d-grouped": (
        lambda: nn.ConvTranspose2d(36, 40, 3, stride=2, output_padding=1, groups=2),
        (2, 36, 4, 5),
    ),
    # Two outputs a channel: the shape of a transposed weight decides what is depth-wise.
    "transpose2d-depthwise": (lambda: nn.ConvTranspose2d(24, 48, 1, groups=24), (2, 24, 4, 5)),
    "transpose3d": (lambda: nn.ConvTranspose3d(18, 20, 2, stride=2, dilation=2), (2, 18, 3, 2, 3)),
}
RECIPES = ["nvfp4", "nvfp4-2d-rht-sr", "nvfp4-fwd-rht", "nvfp4-chain", "int4-adaptive"]
OPERANDS = (Role.INPUT, Role.WEIGHT, Role.GRAD_OUTPUT)


class Recorder:
    """A quantizer that keeps what it was given and what it gave back."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[Tensor, object, Tensor]] = {}

    def __call__(self, x, operand, role, generator):
        # Bytes by the operand, so that they can be drawn again.
        own = torch.Generator().manual_seed(len(self.calls))
        back = faithful(x, operand, role, own)
        self.calls[f"{role.gemm}.{role.operand}"] = (x.clone(), operand, back)
        return back


def recorded(case: str, name: str, look, dtype: torch.dtype | None = None):
    """A layer under a recipe, its views, and what its quantizer saw."""
    build, shape = CASES[case]
    torch.manual_seed(3)
    layer, x = build(), torch.randn(shape)
    dy = torch.randn_like(layer(x)).to(dtype or torch.float32)
    convert(layer, name, layers="all")
    recorder, setup = Recorder(), layer.setup
    layer.setup = replace(setup, quantizer=recorder)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        views = look(layer, x.requires_grad_(), dy)
    layer.setup = setup
    return layer, views, recorder.calls


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("case", CASES)
def test_the_operands_are_what_the_layers_quantizer_gets(case, name, look):
    _, views, calls = recorded(case, name, look)
    found = {one.key: one for role in OPERANDS for one in taken(views[role], None)}
    assert found.keys() == calls.keys()
    for place, (key, (x, operand, back)) in enumerate(calls.items()):
        one = found[key]
        assert torch.equal(one.x, x)
        assert one.operand == operand
        seeded = torch.Generator().manual_seed(place)
        assert torch.equal(one.setup.quantizer(one.x, one.operand, one.place, seeded), back)


@pytest.mark.parametrize("case", ["linear", "conv2d"])
def test_what_autocast_casts_is_cast(case, look):
    _, views, calls = recorded(case, "nvfp4-2d-rht-sr", look, torch.bfloat16)
    assert views[Role.WEIGHT].tensor.dtype == torch.float32
    for role in OPERANDS:
        for one in taken(views[role], None):
            assert one.x.dtype == torch.bfloat16
            assert torch.equal(one.x, calls[one.key][0])


def test_a_recipe_that_is_asked_for_beats_the_one_in_force(look):
    layer, views, _ = recorded("linear", "int4-tensor", look)
    asked_for = wanted("nvfp4-sr")
    assert [str(one.operand.spec) for one in taken(views[Role.GRAD_OUTPUT], asked_for)] == [
        "nvfp4/1d SR",
        "nvfp4/1d SR",
    ]
    assert taken(views[Role.GRAD_OUTPUT], None) == []
    assert layer.setup.recipe.name == "int4-tensor"


def test_random_numbers_are_nobody_elses(look):
    layer, views, _ = recorded("linear", "nvfp4-2d-rht-sr", look)
    before = torch.get_rng_state(), layer.setup.generator.get_state()
    view = replace(views[Role.GRAD_OUTPUT], draw=7)
    same, other = (OperandError().observe(one).scalars() for one in (view, replace(view, draw=7)))
    third = OperandError().observe(replace(view, draw=8)).scalars()
    assert same == other
    assert same["dgrad.dy.sqnr_db"] != third["dgrad.dy.sqnr_db"]
    assert same["dgrad.dy.sqnr_db"] != same["wgrad.dy.sqnr_db"]
    assert torch.equal(before[0], torch.get_rng_state())
    assert torch.equal(before[1], layer.setup.generator.get_state())


@pytest.mark.parametrize("probe", [OperandError, BlockScales])
@pytest.mark.parametrize("name", ["nvfp4-2d-rht-sr", "nvfp4"])
@pytest.mark.parametrize("role", OPERANDS)
def test_nothing_is_read_on_the_host(probe, name, role, monkeypatch):
    """Fake tensors have no values, so whatever asks for one fails; taken as on an accelerator."""
    monkeypatch.setattr(additive, "on_host", lambda counts: False)
    sizes = {Role.INPUT: (6, 40), Role.WEIGHT: (24, 40), Role.GRAD_OUTPUT: (6, 24)}
    with FakeTensorMode(allow_non_fake_inputs=True):
        layer = nn.Linear(40, 24)
        tensors = {role: torch.randn(sizes[role]), Role.OUTPUT: torch.randn(6, 24)}
        view = SiteView(site=Site("fc", role, "linear"), module=layer, tensors=tensors)
        state = probe(name).observe(view)
        merged = state.merge(state)
        monkeypatch.undo()
        with pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
            merged.scalars()


def test_each_operand_has_random_numbers_of_its_own(look):
    _, views, _ = recorded("linear", "nvfp4-sr", look)
    view = replace(views[Role.GRAD_OUTPUT], draw=7)
    dgrad, wgrad = (one._generator().get_state() for one in taken(view, None))
    assert not torch.equal(dgrad, wgrad)


@pytest.mark.parametrize("probe", [OperandError, BlockScales])
def test_nothing_is_kept_of_the_tensors(probe, look):
    layer, views, _ = recorded("linear", "nvfp4", look)
    for role in OPERANDS:
        state = probe().observe(views[role])
        held = {
            value.untyped_storage().data_ptr()
            for part in state.parts.values()
            for value in part.arrays().values()
        }
        assert views[role].tensor.untyped_storage().data_ptr() not in held
        del state
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("probe", [OperandError, BlockScales])
def test_where_there_is_nothing_to_see_there_is_no_state(probe, look):
    views = look(nn.Linear(8, 4), torch.randn(3, 8))
    assert probe().observe(views[Role.INPUT]) is None  # in high precision
    empty = replace(views[Role.INPUT], tensors={Role.INPUT: torch.empty(0, 8)})
    assert probe("nvfp4").observe(empty) is None
    # dgrad and wgrad take fprop's values or high precision
    assert probe("nvfp4-chain").observe(views[Role.GRAD_OUTPUT]) is None


@pytest.mark.parametrize("probe", [OperandError, BlockScales])
def test_the_sites_are_operands_of_layers(probe):
    kinds = ("linear", "conv2d", "conv_transpose3d", "norm", "embedding", "attention")
    chosen = [
        (kind, role) for kind in kinds for role in Role if probe().selects(Site("a", role, kind))
    ]
    assert chosen == [(kind, role) for kind in kinds[:3] for role in Role if role in OPERANDS]


@pytest.mark.parametrize("probe", [OperandError, BlockScales])
def test_a_recipe_without_a_question_is_refused(probe):
    with pytest.raises(InputError, match="bf16 quantizes no operand"):
        probe("bf16")
    with pytest.raises(InputError, match="no recipe called 'nvfp5'; did you mean"):
        probe("nvfp5")


def test_a_setup_holds_the_recipe_that_was_asked_for():
    setup = wanted(recipe("nvfp4"))
    assert isinstance(setup, Setup)
    assert setup.quantizer is faithful
    assert wanted(None) is None
