import copy
import random
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from qprobe.errors import InputError, UnknownNameError
from qprobe.models import ARCHITECTURES, build, in_high_precision

NAMES = ("cnn", "vit", "swin")
CONVERTIBLE = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[k].equal(other[k]) for k in one)


def test_built_ins_are_registered_by_entry_points():
    assert set(NAMES) <= set(ARCHITECTURES.names())


@pytest.mark.parametrize("name", NAMES)
def test_weights_depend_on_the_seed_and_not_on_the_global_state(name):
    torch.manual_seed(1)
    first = weights(build(name, "tiny"))
    torch.manual_seed(2)
    torch.rand(17)
    assert same(first, weights(build(name, "tiny")))
    assert not same(first, weights(build(name, "tiny", seed=1)))


@pytest.mark.parametrize("name", NAMES)
def test_global_random_states_are_left_as_found(name):
    def states():
        numpy = tuple(map(str, np.random.get_state(legacy=True)))  # noqa: NPY002
        return torch.get_rng_state().tolist(), numpy, random.getstate()

    before = states()
    build(name, "tiny", seed=5)
    assert states() == before


def test_global_random_state_is_restored_after_a_failure():
    before = torch.get_rng_state()
    with pytest.raises(InputError):
        build("swin", "tiny", heads=5)
    assert before.equal(torch.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image", [64, 128, (64, 128)])
def test_logits_have_the_size_of_the_image(name, image):
    model = build(name, "tiny", image=image, in_channels=2, classes=4).eval()
    sides = (image, image) if isinstance(image, int) else image
    with torch.no_grad():
        assert model(torch.randn(2, 2, *sides)).shape == (2, 4, *sides)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_gradient(name):
    model = build(name, "tiny")
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert torch.isfinite(parameter.grad).all(), path


@pytest.mark.parametrize("name", NAMES)
def test_recomputing_under_checkpoint_gives_the_same_gradients(name):
    model, x = build(name, "tiny"), torch.randn(2, 3, 64, 64)
    twin = copy.deepcopy(model)
    torch.manual_seed(0)
    model(x).square().mean().backward()
    torch.manual_seed(0)
    checkpoint(twin, x, use_reentrant=False).square().mean().backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_changes_nothing(name):
    model, x = build(name, "tiny").eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        got = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_autocast_stays_near_and_trains(name):
    model, x = build(name, "tiny").eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(x)
    assert got.dtype == torch.bfloat16
    error = (got.float() - expected).norm() / expected.norm()
    assert error < 0.05
    got.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_goes_into_a_twin_of_another_seed(name):
    model, twin = build(name, "tiny", seed=1).eval(), build(name, "tiny", seed=2).eval()
    twin.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert model(x).equal(twin(x))


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_kept_by_default_is_everything_but_qkv_proj_and_mlp(name):
    model = build(name, "tiny")
    for path, module in model.named_modules():
        if isinstance(module, CONVERTIBLE):
            quantized = path.split(".")[-1] in {"qkv", "proj", "fc1", "fc2"}
            kept = any(fnmatchcase(path, glob) for glob in in_high_precision(model))
            assert kept != quantized, path
            assert not quantized or type(module) is nn.Linear, path


@pytest.mark.parametrize("name", NAMES)
def test_first_and_last_convertible_module_are_input_and_output(name):
    """``layers="mid"`` goes by the order of ``named_modules``."""
    model = build(name, "tiny", in_channels=5, classes=7)
    modules = [module for module in model.modules() if isinstance(module, CONVERTIBLE)]
    assert modules[0].in_channels == 5
    assert modules[-1].out_channels == 7


def test_keep_must_be_a_tuple_of_globs():
    model = nn.Identity()
    assert in_high_precision(model) == ()
    model.qprobe_keep = "head"
    with pytest.raises(InputError, match="make it a tuple of globs"):
        in_high_precision(model)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "swim"}, "did you mean 'swin'"),
        (
            {"name": "swin", "size": "4M"},
            "there is no size '4M' of Swin.*known: 15m, 4m, 500k, tiny",
        ),
        ({"name": "swin", "windows": 4}, "takes no option 'windows'; did you mean 'window'"),
        ({"name": "cnn", "dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"name": "cnn", "classes": 0}, "classes must be a whole number >= 1, got 0"),
        ({"name": "vit", "image": (64, 64, 64)}, "image is a side or"),
        ({"name": "vit", "image": 64.0}, "height must be a whole number >= 1, got 64.0"),
        ({"name": "vit", "image": 0}, "height must be a whole number"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(arguments, said):
    with pytest.raises(InputError, match=said):
        build(**arguments)


def test_unknown_size_is_an_unknown_name():
    with pytest.raises(UnknownNameError):
        build("cnn", "huge")


def test_an_architecture_can_be_registered_for_this_process(monkeypatch):
    monkeypatch.setattr(ARCHITECTURES, "_loaded", dict(ARCHITECTURES._loaded))
    ARCHITECTURES.register(
        "pixelwise", lambda in_channels, classes: nn.Conv2d(in_channels, classes, 1)
    )
    assert build("pixelwise", classes=2).out_channels == 2
    with pytest.raises(InputError, match="not a function that builds one"):
        ARCHITECTURES.register("number", 7)


@pytest.mark.parametrize(("name", "count"), [("cnn", 134_305), ("vit", 45_513), ("swin", 45_841)])
def test_parameter_counts_of_tiny(name, count):
    assert sum(p.numel() for p in build(name, "tiny").parameters()) == count


@pytest.mark.parametrize("name", NAMES)
def test_each_model_can_learn_one_batch(name):
    model = build(name, "tiny", image=32, dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 32, 32, generator=generator)
    target = torch.zeros(2, 1, 32, 32)
    target[0, :, 4:14, 6:20] = target[1, :, 15:30, 2:12] = 1.0
    x[:, :1] += target
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]
