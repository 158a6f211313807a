"""Its recipes are real and need no GPU; its modules do, so stand-ins of their names are watched."""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch
from torch import nn

import qprobe
from qprobe.errors import InputError
from qprobe.integrations.transformer_engine import recipe_of
from qprobe.probes.operand_error import OperandError
from qprobe.records.schema import Role
from qprobe.sites import discover


@pytest.fixture(scope="module")
def te():
    """``transformer_engine.common.recipe``, from the wheel and without the rest of it."""
    pytest.importorskip("pydantic", reason="the recipes of Transformer Engine are pydantic's")
    try:
        place = distribution("transformer-engine").locate_file(
            "transformer_engine/common/recipe/__init__.py"
        )
    except PackageNotFoundError:
        pytest.skip("transformer-engine is not installed")
    spec = spec_from_file_location("te_recipe", str(place))
    module = module_from_spec(spec)
    sys.modules["te_recipe"] = module  # its dataclasses look their annotations up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["te_recipe"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "nvfp4-2d-rht-sr"),
        ({"disable_stochastic_rounding": True}, "nvfp4-2d-rht"),
        ({"disable_rht": True, "disable_2d_quantization": True}, "nvfp4-sr"),
        (
            {
                "disable_rht": True, "disable_2d_quantization": True,
                "disable_stochastic_rounding": True,
            },
            "nvfp4",
        ),
        ({"backward_override": "high_precision", "disable_2d_quantization": True}, "nvfp4-fwd"),
        ({"backward_override": "dequantized", "disable_2d_quantization": True}, "nvfp4-chain"),
        ({"disable_rht": True}, "te-nvfp4-2d-sr"),
    ],
)  # fmt: skip
def test_a_recipe_is_the_one_of_the_catalogue_that_does_the_same(te, settings, name):
    assert recipe_of(te.NVFP4BlockScaling(**settings)).name == name


def test_what_has_no_counterpart_is_refused(te):
    with pytest.raises(InputError, match="MXFP8BlockScaling has no counterpart"):
        recipe_of(te.MXFP8BlockScaling())
    with pytest.raises(InputError, match="nvfp4_4over6='all' has no counterpart"):
        recipe_of(te.NVFP4BlockScaling(nvfp4_4over6="all", disable_rht=True))
    one_sided = te.NVFP4BlockScaling()
    one_sided.fp4_quant_fwd_inp = te.QParams()
    with pytest.raises(InputError, match="rotates one operand"):
        recipe_of(one_sided)


def stand_in(name: str, base: type[nn.Module]) -> type[nn.Module]:
    """A class of the name and the module that Transformer Engine's has, and of another kind."""

    class Module(nn.Module):
        def __init__(self, *sizes: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(base(*sizes).weight.detach())

        def forward(self, x):
            return x @ self.weight.T

    Module.__name__ = Module.__qualname__ = name
    Module.__module__ = "transformer_engine.pytorch.module"
    return Module


def test_its_modules_are_found_by_their_names():
    model = nn.Sequential(
        stand_in("Linear", nn.Linear)(8, 8), stand_in("LayerNormLinear", nn.Linear)(8, 8)
    )
    roles = {}
    for site in discover(model):
        assert site.kind == "linear"
        roles.setdefault(site.path, []).append(site.role)
    learned = [Role.WEIGHT, Role.GRAD_WEIGHT]
    assert roles["0"] == [Role.INPUT, Role.OUTPUT, Role.GRAD_OUTPUT, *learned]
    assert roles["1"] == [Role.OUTPUT, Role.GRAD_OUTPUT, *learned]
    assert not discover(stand_in("Fp8Padding", nn.Linear)(4, 4))


def test_a_recipe_is_asked_about_its_modules(te):
    model = nn.Sequential(stand_in("Linear", nn.Linear)(32, 16))
    probe = OperandError(recipe=recipe_of(te.NVFP4BlockScaling()))
    with qprobe.attach(model, probes=[probe], schedule={"operand_error": 1}) as session:
        model(torch.randn(16, 32)).square().sum().backward()
        session.step()
    found = {(record.role, record.key): record.value for record in session.records()}
    assert 15 < found["input", "fprop.x.sqnr_db"] < 30
    assert 15 < found["weight", "fprop.w.sqnr_db"] < 30
    assert 10 < found["grad_output", "dgrad.dy.sqnr_db"] < 30


@pytest.mark.gpu
def test_a_module_of_its_own_is_watched_on_a_gpu():
    te = pytest.importorskip("transformer_engine.pytorch", exc_type=Exception)
    model = nn.Sequential(te.Linear(64, 64), te.LayerNormLinear(64, 64)).cuda()
    with qprobe.attach(model, probes=["moments"], every=1) as session:
        model(torch.randn(32, 64, device="cuda")).square().sum().backward()
        session.step()
    assert {record.site for record in session.records() if record.probe == "moments"} == {"0", "1"}
