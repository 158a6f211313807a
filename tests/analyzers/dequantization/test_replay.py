import pytest
import torch
from torch import Tensor, nn

from qprobe.analyzers.dequantization.layers import dequantized, quantized_layers
from qprobe.analyzers.dequantization.replay import Replay
from qprobe.errors import InputError
from qprobe.models import build
from qprobe.quant import Restoring, convert, override
from qprobe.quant.remembering import remembering

MEMORY = 2**28


def replayed(model: nn.Module, x: Tensor, memory: int = MEMORY) -> dict[str, Tensor]:
    """The output with each layer put back, by replay of one recorded pass."""
    layers = quantized_layers(model)
    replay, restoring = Replay(model, memory), Restoring(model)
    found = {}
    with torch.no_grad(), remembering(model.modules()), replay.attached():
        recording = replay.record(lambda: model(x))
        for path, layer in layers.items():
            variant = dequantized(restoring, [layer])
            with variant.applied():
                found[path] = replay.replay(recording, variant.changed, lambda: model(x))
    return found


def overridden(model: nn.Module, x: Tensor, recipe: str) -> dict[str, Tensor]:
    """The slow reference: override one layer, run everything, put it back."""
    found = {}
    with torch.no_grad():
        for path in quantized_layers(model):
            override(model, {path: "bf16"})
            with remembering(model.modules()):
                found[path] = model(x)
            override(model, {path: recipe})
    return found


def assert_same(model: nn.Module, x: Tensor, recipe: str, memory: int = MEMORY) -> None:
    fast, slow = replayed(model, x, memory), overridden(model, x, recipe)
    assert fast.keys() == slow.keys()
    assert fast
    for path, output in fast.items():
        assert torch.equal(output, slow[path]), path


@pytest.mark.parametrize("recipe", ["nvfp4", "int4-tensor", "int4-adaptive"])
@pytest.mark.parametrize("arch", ["cnn", "vit", "swin"])
def test_replay_is_evaluation_to_the_bit(arch, recipe):
    model = build(arch, "tiny", image=32, in_channels=1).eval()
    convert(model, recipe, layers="all")
    assert_same(model, torch.randn(3, 1, 32, 32), recipe)


@pytest.mark.parametrize("memory", [0, 2**12, 2**16])
def test_beyond_the_bound_it_is_computed_again(memory):
    model = build("swin", "tiny", image=32, in_channels=1).eval()
    convert(model, "nvfp4", layers="all")
    x = torch.randn(2, 1, 32, 32)
    assert_same(model, x, "nvfp4", memory)
    replay = Replay(model, memory)
    with torch.no_grad(), replay.attached():
        assert replay.record(lambda: model(x)).bytes <= memory


class Blocks(nn.Module):
    """Nine blocks of two layers on rows of 16 numbers, and of what hands on what it got."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Identity()) for _ in range(9))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


#: One output of the above for four rows.
ONE = 4 * 16 * 4


def names(blocks: range, ends: str = " 012") -> set[str]:
    return {f"blocks.{n}.{end}".rstrip(" .") for n in blocks for end in ends}


@pytest.mark.parametrize(
    ("memory", "kept", "outputs"),
    [
        (18 * ONE * 16, names(range(9)) | {"blocks", ""}, 18),  # handed on: nothing
        (4 * ONE * 16, names(range(2)) | names(range(2, 9), " ") | {"blocks", ""}, 11),
        (9 * ONE, names(range(9), " ") | {"blocks", ""}, 9),
        (4 * ONE, names(range(4), " "), 4),
        (0, set(), 0),
    ],
)
def test_what_is_kept_of_blocks(memory, kept, outputs):
    """A block gives up what is inside it, unless little is kept; what holds all blocks does not."""
    model = Blocks()
    convert(model, "int4-tensor", layers="all")
    x, replay = torch.randn(4, 16), Replay(model, memory)
    with torch.no_grad(), replay.attached():
        recording = replay.record(lambda: model(x))
    assert {call.name[0] for call in recording.calls() if call.kept} == kept
    storages = {at: n for call in recording.calls() for at, n in call.storages.items()}
    assert recording.bytes == sum(storages.values()) <= memory
    assert len(storages) == outputs
    assert_same(model, x, "int4-tensor", memory)


class Twice(nn.Module):
    """A shared layer under two names, called three times, and tensors written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.shared = nn.Linear(16, 16)
        self.act = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm1d(16)
        self.again = self.shared
        self.last = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        early = y
        y = self.act(self.shared(y))
        y += early
        y = self.norm(self.again(y))
        early.mul_(2)
        return self.last(self.shared(y)) + early


def test_shared_layers_in_place_writes_and_batch_norm():
    model = Twice()
    model.norm.running_mean.normal_()
    model.eval()
    convert(model, "int4-tensor", layers="all")
    assert_same(model, torch.randn(5, 16), "int4-tensor")


def test_what_a_change_plays_again():
    """Ten numbers come from the first layer, ten from what follows it and five from the last."""
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 10), nn.ReLU()), nn.Linear(10, 5))
    replay = Replay(model, 2**20)
    with replay.attached():
        recording = replay.record(lambda: model(torch.ones(1, 4)))
    shares = {"": 1.0, "0": 1.0, "0.0": 1.0, "0.1": 0.6, "1": 0.2}
    assert recording.again == pytest.approx(shares)


class Depends(nn.Module):
    """Which layer runs depends on what the first gave, and one is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers[0](x)
        y = self.layers[1](y) if y.abs().max().item() * 1e6 % 2 < 1 else self.layers[2](y)
        return self.layers[0](y)


@pytest.mark.parametrize("seed", range(6))
def test_control_flow_that_depends_on_data(seed):
    torch.manual_seed(seed)
    model = Depends().eval()
    convert(model, "int4-tensor", layers="all")
    assert_same(model, torch.randn(5, 16), "int4-tensor")


class Wanders(nn.Module):
    """Calls another layer every time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layers[2](self.layers[self.calls % 2](x))


def test_a_pass_that_calls_other_modules_is_refused():
    model = Wanders().eval()
    convert(model, "nvfp4", layers="all")
    with pytest.raises(InputError, match=r"'layers\.0' where it had called 'layers\.1'"):
        replayed(model, torch.randn(2, 16))


def test_nothing_is_left_on_the_model():
    model = build("vit", "tiny", image=32, in_channels=1).eval()
    convert(model, "nvfp4", layers="all")
    own = model.blocks[0].forward
    vars(model.blocks[0])["forward"] = own
    with pytest.raises(ZeroDivisionError), Replay(model, MEMORY).attached():
        1 / ("forward" not in vars(model.blocks[1]))
    assert vars(model.blocks[0]).pop("forward") is own
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_compiled_model_is_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0]._compiled_call_impl = model[0]._call_impl  # what Module.compile() sets
    with pytest.raises(InputError, match="is compiled"), Replay(model, MEMORY).attached():
        pass
