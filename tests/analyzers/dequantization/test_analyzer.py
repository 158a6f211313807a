"""A linear model whose recoveries follow by hand, and the slow way for everything else."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qprobe.analyzers.base import ANALYZERS, ActiveAnalyzer, Subject
from qprobe.analyzers.dequantization import QUICK, Bounds, Dequantization, Mode, Search
from qprobe.analyzers.dequantization.emit import Measured
from qprobe.analyzers.dequantization.layers import quantized_layers
from qprobe.analyzers.scores import MeanLoss
from qprobe.errors import InputError
from qprobe.inference import kendall_tau
from qprobe.models import build
from qprobe.quant import convert, override, recipe
from qprobe.quant.remembering import remembering

BARE = Search(
    mode=Mode.EXHAUSTIVE, operands=False, agreement=0, cumulative=0, sensitivity=False, gradients=0
)
DRAWS = Bounds(draws=200)


def squared(output: Tensor, batch) -> Tensor:
    return (output - batch[1]).flatten(1).square().sum(1)


def subject(model: nn.Module, batches: list, name: str, **more) -> Subject:
    return Subject(
        model=model,
        recipe=recipe(name),
        batches=lambda: iter(batches),
        loss=squared,
        score=MeanLoss(loss=squared),
        **more,
    )


class Parallel(nn.Module):
    """Two layers whose outputs add up, one for each input; each has an error of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        self.fine.weight.data = torch.tensor([[0.7, 0.1]])  # both on the grid of INT4
        self.coarse.weight.data = torch.tensor([[0.7, 0.12]])  # 0.12 becomes 0.1

    def forward(self, x: Tensor) -> Tensor:
        return self.fine(x[:, :2]) + self.coarse(x[:, 2:])


@pytest.fixture
def parallel() -> Subject:
    """In every sample x is (7, n, 7, n): on the grid, so w alone errs, by 0.02·n at n = 1..6."""
    model = Parallel()
    convert(model, "int4-tensor", layers="all")
    n = torch.arange(1.0, 7.0)
    seven = torch.full_like(n, 7.0)
    x = torch.stack([seven, n, seven, n], dim=1)
    exact = 4.9 + 0.1 * n + 4.9 + 0.12 * n
    return subject(model, [(x[:3], exact[:3, None]), (x[3:], exact[3:, None])], "int4-tensor")


def test_recovery_gap_and_operand_by_hand(parallel):
    found = Measured(Dequantization(Search(gradients=0), DRAWS).measure(parallel))
    gap = float((0.02 * np.arange(1, 7)) ** 2 @ np.ones(6) / 6)  # Σ(0.02 n)²/6 = 0.0004·91/6
    assert found.interval("gap").estimate == pytest.approx(gap, rel=1e-4)
    recovered = found.intervals("recovery")
    assert recovered["coarse"].estimate == pytest.approx(gap, rel=1e-4)
    assert recovered["fine"].estimate == pytest.approx(0.0, abs=1e-9)
    assert found.intervals("recovery", "weight")["coarse"].estimate == pytest.approx(gap, rel=1e-4)
    assert found.intervals("recovery", "input")["coarse"].estimate == pytest.approx(0.0, abs=1e-9)
    assert found.intervals("sensitivity")["coarse"].estimate == pytest.approx(gap, rel=1e-4)
    assert recovered["coarse"].n == 6
    assert found.value("layers") == 2
    assert {"passes.base", "passes.screen", "passes.race"} <= found.keys()


def test_the_finding_names_the_layer_and_its_weight(parallel):
    analyzer = Dequantization(Search(gradients=0), DRAWS)
    found = analyzer.analyze(list(analyzer.measure(parallel)))
    named = [one for one in found if one.sites == ("coarse",)]
    assert len(named) == 1
    assert "100% of what is lost, nearly all of it by its weight alone" in named[0].claim
    assert not [one for one in found if one.sites == ("fine",)]


class MeanOutput:
    """A score that is linear in the output, so that its slope tells all."""

    name = "mean_output"

    def of(self, output: Tensor, batch) -> np.ndarray:
        values = output.detach().double().flatten().numpy()
        return np.stack([values, np.ones_like(values)], axis=1)

    def reduce(self, totals: np.ndarray) -> np.ndarray:
        return totals[:, 0] / totals[:, 1]

    def gains(self, output: Tensor, batch, totals: np.ndarray) -> Tensor:
        return output.flatten() / totals[1]


@pytest.mark.parametrize(("share", "seen"), [(1.0, range(1, 7)), (1 / 6, range(4, 7))])
def test_a_score_that_tells_its_slope_is_screened_with_it(parallel, share, seen):
    """A sixth is the second batch, taken for all: a batch that cannot be divided is taken whole."""
    one = replace(parallel, score=MeanOutput(), loss=lambda output, batch: 0 * output.flatten())
    search = replace(BARE, screened=share)
    found = Measured(Dequantization(search, DRAWS).measure(one))
    screen = found.values("screen")
    assert screen["coarse"] == pytest.approx(0.02 * np.mean(list(seen)), rel=1e-4)
    assert screen["fine"] == pytest.approx(0.0, abs=1e-7)
    assert found.value("screen.gain", "coarse", "weight") == pytest.approx(screen["coarse"])
    assert found.value("screen.gain", "coarse", "input") == pytest.approx(0.0, abs=1e-7)
    assert not found.values("screen.signed")
    assert found.intervals("recovery")["coarse"].estimate == pytest.approx(0.07, rel=1e-4)


def test_a_batch_that_can_be_divided_gives_samples_from_all_over_it(parallel):
    """Of n = 1..6 over and over a third: 3, 6, 3, 6... of each batch, 16 in all."""
    n = torch.arange(48.0) % 6 + 1
    x = torch.stack([torch.full_like(n, 7.0), n, torch.full_like(n, 7.0), n], dim=1)
    batches = [(part, torch.zeros(12, 1)) for part in x.split(12)]
    one = replace(
        parallel,
        batches=lambda: iter(batches),
        score=MeanOutput(),
        some=lambda batch, rows: tuple(part[rows] for part in batch),
    )
    search = replace(BARE, mode=Mode.SCREEN, screened=1 / 3)
    found = Measured(Dequantization(search, DRAWS).measure(one))
    assert found.value("screen.samples", "coarse") == 16
    assert found.value("screen", "coarse") == pytest.approx(0.02 * 4.5, rel=1e-4)
    spread = 0.02 * 1.5 * (16 / 15) ** 0.5  # half of the samples 1.5 above the mean, half below
    assert found.value("screen.stderr", "coarse") == pytest.approx(spread / 4, rel=1e-4)
    assert found.value("screen.stderr", "fine") == pytest.approx(0.0, abs=1e-7)


def test_how_far_quick_can_be_trusted_is_of_the_screen_that_quick_takes():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(6, 6) for _ in range(6)], nn.Linear(6, 1)).eval()
    convert(model, "int4-tensor", layers="all")
    batches = [(torch.randn(6, 6), torch.zeros(6, 1)) for _ in range(4)]
    one = replace(subject(model, batches, "int4-tensor"), score=MeanOutput())
    alone = {"operands": False, "cumulative": 0, "sensitivity": False, "gradients": 0}
    records = list(Dequantization(Search(**alone), DRAWS).measure(one))
    found = Measured(records)
    quick = Measured(Dequantization(replace(QUICK, gradients=0), DRAWS).measure(one))
    order, truth = quick.values("screen"), found.intervals("recovery")
    expected = kendall_tau([order[path] for path in truth], [truth[p].estimate for p in truth])
    assert order == found.values("screen")
    assert len(truth) == 7
    assert found.interval("agreement").estimate == expected.estimate
    # What is known of it is not measured again, and of no random layers nothing is told.
    known = [one for one in records if not one.key.startswith("agreement")]
    again = list(Dequantization(Search(**alone), DRAWS, known=known).measure(one))
    assert Measured(again).interval("agreement") == found.interval("agreement")
    none = Measured(Dequantization(Search(**alone | {"agreement": 0}), DRAWS).measure(one))
    assert none.interval("agreement") is None


def small(arch: str, name: str) -> Subject:
    model = build(arch, "tiny", image=32, in_channels=1)
    model.train()
    convert(model, name, layers="all")
    batches = [(torch.randn(4, 1, 32, 32), torch.randn(4, 1, 32, 32)) for _ in range(2)]
    return subject(model, batches, name, groups=lambda batch: ["a", "b", "c", "c"])


def slowly(one: Subject) -> dict[str, float]:
    """Override, evaluate everything plainly, put back."""

    def score() -> float:
        with torch.no_grad(), remembering(one.model.modules()):
            sums = sum(one.score.of(one.model(b[0]), b).sum(0) for b in one.batches())
        return float(one.score.reduce(sums[None])[0])

    one.model.eval()
    found = {"": score()}
    for path in quantized_layers(one.model):
        override(one.model, {path: "bf16"})
        found[path] = score()
        override(one.model, {path: one.recipe})
    one.model.train()
    return found


@pytest.mark.parametrize(("arch", "name"), [("cnn", "int4-tensor"), ("swin", "nvfp4")])
def test_exhaustive_is_the_slow_way_to_the_bit(arch, name):
    one = small(arch, name)
    expected = slowly(one)
    base = expected.pop("")
    found = Measured(Dequantization(BARE, DRAWS).measure(one)).intervals("recovery")
    assert {path: value.estimate for path, value in found.items()} == pytest.approx(
        {path: value - base for path, value in expected.items()}, rel=0, abs=1e-12
    )
    assert all(value.n == 3 for value in found.values())


def test_without_replay_and_with_little_memory_it_is_the_same():
    one = small("vit", "int4-tensor")
    bounds = [DRAWS, Bounds(draws=200, replay=False), Bounds(draws=200, memory=2**14)]
    first, *others = [
        Measured(Dequantization(BARE, bound).measure(one)).entries("recovery") for bound in bounds
    ]
    key = lambda entry: entry.site  # noqa: E731
    assert all(sorted(other, key=key) == sorted(first, key=key) for other in others)


def test_the_model_is_left_as_it_was():
    one = small("cnn", "nvfp4-2d-rht-sr")
    one.model.encoder[0].eval()
    one.model.head.weight.requires_grad_(False)
    setups = {path: layer.module.setup for path, layer in quantized_layers(one.model).items()}
    before = copy.deepcopy(one.model.state_dict())
    modes = [module.training for module in one.model.modules()]
    random = one.model.head.setup.generator.get_state()
    list(Dequantization(Search(pairs=2), DRAWS).measure(one))
    after = one.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {p: layer.module.setup for p, layer in quantized_layers(one.model).items()} == setups
    assert [module.training for module in one.model.modules()] == modes
    assert [p.requires_grad for p in one.model.parameters()].count(False) == 1
    assert torch.equal(one.model.head.setup.generator.get_state(), random)
    assert not any("forward" in vars(module) for module in one.model.modules())


def test_an_interrupted_measurement_goes_on_from_its_records():
    one = small("cnn", "int4-tensor")
    whole = list(Dequantization(BARE, DRAWS).measure(one))
    cut = next(at for at, record in enumerate(whole) if record.key == "recovery.n") + 1
    rest = list(Dequantization(BARE, DRAWS, known=whole[:cut]).measure(one))
    done = {record.site for record in whole[:cut] if record.key == "recovery"}
    again = {record.site for record in rest if record.key == "recovery"}
    assert len(done) == 1
    assert not done & again
    assert Measured([*whole[:cut], *rest]).intervals("recovery") == Measured(whole).intervals(
        "recovery"
    )
    assert not [record for record in rest if record.key == "screen"]


def test_records_of_another_model_are_refused():
    one, other = small("cnn", "int4-tensor"), small("cnn", "int4-tensor")
    known = list(Dequantization(QUICK, DRAWS).measure(other))
    with pytest.raises(InputError, match="start anew"):
        list(Dequantization(BARE, DRAWS, known=known).measure(one))


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x)) + torch.rand(1)


class Whispers(nn.Module):
    """The last layer's scale is what the first one left on itself, behind its output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layers = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.inner = Remembers()

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.first(x))
        for layer in self.layers:
            x = layer(x)
        return x * self.inner.scale


class Remembers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.scale = x.abs().max()
        return x


@pytest.mark.parametrize("kind", [Noisy, Whispers])
def test_what_cannot_be_replayed_is_refused(kind):
    model = kind().eval()
    convert(model, "int4-tensor", layers="all")
    batches = [(torch.randn(4, 4), torch.zeros(4, 4)) for _ in range(2)]
    with pytest.raises(InputError, match="draws random numbers or its modules share state"):
        list(Dequantization(BARE, DRAWS).measure(subject(model, batches, "int4-tensor")))
    if kind is Whispers:
        plain = Bounds(draws=200, replay=False)
        assert list(Dequantization(BARE, plain).measure(subject(model, batches, "int4-tensor")))


def test_a_model_in_high_precision_and_no_data_are_refused():
    with pytest.raises(InputError, match="has no quantized layer"):
        list(Dequantization().measure(subject(nn.Linear(2, 2), [], "nvfp4")))
    model = nn.Sequential(nn.Linear(4, 4))
    convert(model, "nvfp4", layers="all")
    with pytest.raises(InputError, match="gave no batch"):
        list(Dequantization().measure(subject(model, [], "nvfp4")))


def test_it_is_registered():
    assert isinstance(ANALYZERS.get("dequantization"), ActiveAnalyzer)
