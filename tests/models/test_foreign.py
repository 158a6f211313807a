import sys
import types

import pytest
import torch
from torch import nn

from qprobe.errors import InputError, MissingExtraError, QprobeError, UnknownNameError
from qprobe.models import build

MODULE = """
from torch import nn

class Zoo:
    @staticmethod
    def linear(classes):
        return nn.Linear(3, classes)

def make(in_channels, classes, *, image, width=4):
    model = nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.Conv2d(width, classes, 1))
    model.image = image
    return model

def plain():
    return nn.Conv2d(3, 1, 1)

def everything(**arguments):
    model = nn.Identity()
    model.arguments = arguments
    return model

def wrong():
    return "a model"

NUMBER = 3
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "user_models_under_test.py").write_text(MODULE)
    (tmp_path / "user_models_broken.py").write_text("1 / 0")
    (tmp_path / "user_models_lacking.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    yield "user_models_under_test"
    for name in ("user_models_under_test", "user_models_lacking"):
        sys.modules.pop(name, None)


def test_factory_gets_the_arguments_it_names(user_module):
    model = build(f"{user_module}:make", in_channels=2, classes=5, image=32, width=6)
    assert model[0].in_channels == 2
    assert model[0].out_channels == 6
    assert model[1].out_channels == 5
    assert model.image == (32, 32)


def test_factory_with_open_arguments_gets_all(user_module):
    model = build(f"{user_module}:everything", "4m", depth=3)
    assert model.arguments == {
        "size": "4m",
        "image": (64, 64),
        "in_channels": 3,
        "classes": 1,
        "patch": None,
        "depth": 3,
    }


def test_initial_weights_of_a_foreign_model_follow_the_seed(user_module):
    torch.manual_seed(0)
    one = build(f"{user_module}:make", seed=4)[0].weight
    torch.manual_seed(9)
    assert one.equal(build(f"{user_module}:make", seed=4)[0].weight)
    assert not one.equal(build(f"{user_module}:make", seed=5)[0].weight)


def test_attribute_paths_reach_into_classes(user_module):
    assert build(f"{user_module}:Zoo.linear", classes=2).out_features == 2


def test_what_a_factory_would_ignore_is_refused(user_module):
    assert isinstance(build(f"{user_module}:plain"), nn.Conv2d)
    with pytest.raises(InputError, match="takes no option 'classes'"):
        build(f"{user_module}:plain", classes=2)
    with pytest.raises(InputError, match="takes no option 'size'"):
        build(f"{user_module}:plain", "4m")
    with pytest.raises(InputError, match="takes no option 'widht'; did you mean 'width'"):
        build(f"{user_module}:make", widht=3)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        (":make", InputError, "is no module:factory"),
        ("user_models_under_test:", InputError, "is no module:factory"),
        ("user_models_under_test:mkae", UnknownNameError, "did you mean 'make'"),
        ("user_models_under_test:NUMBER", InputError, "is a int, not a function"),
        ("user_models_under_test:wrong", InputError, "returned a str"),
        ("nowhere_to_be_found:make", InputError, "no module 'nowhere_to_be_found'; install it"),
        ("user_models_lacking:make", InputError, "needs the module 'not_installed_anywhere'"),
        ("user_models_broken:make", QprobeError, "ZeroDivisionError: division by zero"),
    ],
)
def test_factories_that_cannot_be_used_are_refused_by_name(user_module, name, error, said):
    with pytest.raises(error, match=said):
        build(name)


@pytest.fixture
def small_monai(monkeypatch):
    """A stand-in with MONAI's shape, so the rules are tested where MONAI is not installed."""

    class FlatNet(nn.Module):
        def __init__(self, spatial_dims, in_channels, out_channels, img_size=None, width=8):
            super().__init__()
            if width % 4:
                raise ValueError("width must be divisible by 4")
            self.arguments = (spatial_dims, in_channels, out_channels, img_size, width)

    class ScoreNet(nn.Module):
        def __init__(self, in_channels, num_classes):
            super().__init__()
            self.arguments = (in_channels, num_classes)

    nets = types.ModuleType("monai.networks.nets")
    nets.FlatNet, nets.ScoreNet, nets.helper = FlatNet, ScoreNet, len
    monkeypatch.setitem(sys.modules, "monai", types.ModuleType("monai"))
    monkeypatch.setitem(sys.modules, "monai.networks", types.ModuleType("monai.networks"))
    monkeypatch.setitem(sys.modules, "monai.networks.nets", nets)


def test_monai_networks_get_their_own_names_for_things(small_monai):
    model = build("monai:FlatNet", in_channels=4, classes=2, image=(32, 64))
    assert model.arguments == (2, 4, 2, (32, 64), 8)
    assert build("monai:ScoreNet", classes=3).arguments == (3, 3)
    volume = build("monai:FlatNet", image=32, spatial_dims=3, width=12)
    assert volume.arguments == (3, 3, 1, (32, 32, 32), 12)
    assert build("monai:FlatNet", img_size=(8, 8)).arguments[3] == (8, 8)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "said"),
    [
        ("monai:FlatNot", {}, UnknownNameError, "did you mean FlatNet"),
        ("monai:helper", {}, UnknownNameError, "known: FlatNet, ScoreNet"),
        ("monai:FlatNet", {"depth": 2}, InputError, "takes no option 'depth'"),
        ("monai:FlatNet", {"width": 3}, InputError, "refused .*width=3.*divisible by 4"),
        ("monai:FlatNet", {"size": "4m"}, InputError, "has no size"),
        ("monai:FlatNet", {"patch": 4}, InputError, "has no patch"),
        ("monai:FlatNet", {"spatial_dims": 3, "image": (8, 16)}, InputError, "give img_size="),
    ],
)
def test_monai_networks_that_cannot_be_built(small_monai, name, arguments, error, said):
    with pytest.raises(error, match=said):
        build(name, **arguments)


def test_missing_monai_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qprobe\[medical\]'"):
        build("monai:SwinUNETR")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("monai:SwinUNETR", {"feature_size": 12}),
        ("monai:UNETR", {"hidden_size": 48, "mlp_dim": 96, "num_heads": 4}),
        ("monai:UNet", {"channels": (8, 16), "strides": (2,)}),
    ],
)
def test_real_monai_networks(name, options):
    pytest.importorskip("monai", reason="needs the extra 'medical'")
    model = build(name, image=64, in_channels=1, classes=2, **options).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 2, 64, 64)


@pytest.mark.parametrize("name", ["../mine:make", ".mine:make"])
def test_a_path_is_no_module(name):
    with pytest.raises(InputError, match="is a path; give a module"):
        build(name)
