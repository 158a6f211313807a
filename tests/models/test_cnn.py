import pytest
import torch
import torch.nn.functional as F

from qprobe.errors import InputError
from qprobe.models import build


@pytest.mark.parametrize(
    ("size", "count"), [("500k", 530_753), ("4m", 3_684_481), ("15m", 13_674_529)]
)
def test_parameter_counts_of_the_study(size, count):
    assert sum(p.numel() for p in build("cnn", size, image=256).parameters()) == count


def test_forward_equals_the_same_network_written_out():
    model = build("cnn", stages=3, channels=8).double().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        e = [(s.conv.weight, s.conv.bias, s.norm) for s in model.encoder]
        d = [(s.conv.weight, s.conv.bias, s.norm) for s in model.decoder]

        def down(x, stage):
            y = F.conv2d(x, *e[stage][:2], stride=2, padding=1)
            return F.leaky_relu(e[stage][2](y), 0.2) if stage == 0 else e[stage][2](y).relu()

        def up(x, stage):
            y = F.conv_transpose2d(x, *d[stage][:2], stride=2, padding=1)
            return d[stage][2](y).relu()

        c1 = down(x, 0)
        c2 = down(c1, 1)
        u2 = torch.cat([up(down(c2, 2), 0), c2], 1)
        u1 = torch.cat([up(u2, 1), c1], 1)
        expected = F.conv_transpose2d(u1, model.head.weight, model.head.bias, stride=2, padding=1)
        torch.testing.assert_close(model(x), expected)


def test_initial_weights_have_the_variance_of_their_true_fan_in():
    """Fan-in counted by convolving ones with ones, away from the border."""
    model = build("cnn", "500k")
    layers = [model.encoder[1].conv, model.decoder[0].conv, model.decoder[1].conv]
    for conv in layers:
        convolve = F.conv2d if isinstance(conv, torch.nn.Conv2d) else F.conv_transpose2d
        image = torch.ones(1, conv.in_channels, 8, 8)
        counted = convolve(image, torch.ones_like(conv.weight), stride=2, padding=1)
        fan_in = counted[0, 0, 2, 2].item()
        n = conv.weight.numel()
        # The variance of n normal draws has relative standard error √(2/n); five of them.
        assert conv.weight.var().item() == pytest.approx(2 / fan_in, rel=5 * (2 / n) ** 0.5)
        assert not conv.bias.any()


def test_bottleneck_is_the_deepest_convolution():
    model = build("cnn", "4m")
    (path,) = model.qprobe_keep
    sizes = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _, __, out, name=name: sizes.update({name: out.shape[-1]})
        )
    model.eval()(torch.randn(1, 3, 64, 64))
    assert path == "encoder.5.conv"
    assert sizes[path] == min(sizes.values()) == 1


@pytest.mark.parametrize(
    ("size", "image", "step"), [("500k", 60, 16), ("15m", 64, 128), ("4m", (64, 96), 64)]
)
def test_sides_the_stages_cannot_halve_are_refused(size, image, step):
    with pytest.raises(InputError, match=f"sides that are multiples of {step}"):
        build("cnn", size, image=image)


def test_patch_and_one_stage_and_a_missing_axis_are_refused():
    with pytest.raises(InputError, match="a CNN has no patches; leave patch=4 out"):
        build("cnn", patch=4)
    with pytest.raises(InputError, match="stages must be at least 2"):
        build("cnn", stages=1)
    with pytest.raises(InputError, match=r"takes a batch \[B, C, H, W\]"):
        build("cnn", "tiny")(torch.zeros(3, 64, 64))


def test_one_value_per_channel_in_batch_norm_is_refused_in_training_only():
    model = build("cnn", "4m")
    with pytest.raises(InputError, match="train with two images"):
        model(torch.zeros(1, 3, 64, 64))
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)
