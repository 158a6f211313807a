"""What quantization does to a layer's output, and what another way to quantize would do."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.probes.base import Field, SiteView
from qprobe.probes.operands import wanted
from qprobe.probes.outlying import outlying_channels, outlying_tokens
from qprobe.quant import catalogue
from qprobe.quant.formats import BlockFormat, IntFormat
from qprobe.quant.hadamard import SIZE
from qprobe.quant.layers import kernel_of
from qprobe.quant.products import Kernel, Products, Setup
from qprobe.quant.ptq.channels import Channels
from qprobe.quant.recipe import Gemm, QuantRecipe
from qprobe.quant.spec import Granularity, QuantSpec, Tile
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.stats import compensated
from qprobe.stats.additive import Additive
from qprobe.stats.missing import known, ratio

#: The layer as it is, its own quantizer included.
AS_IT_IS = "as_it_is"
#: What the recipe says, done by the book.
INTENDED = "intended"
#: One operand in high precision, the other as the recipe says.
X_HIGH, W_HIGH = "x_high", "w_high"
#: A scale for each output channel of a weight that has one.
W_CHANNEL = "w_channel"
ROTATED = "rotated"
SMOOTHED = "smoothed"
#: By the book, what the channels or tokens that are out of line carry being left to high precision.
WITHOUT_CHANNELS, WITHOUT_TOKENS = "without_channels", "without_tokens"
_WITHOUT = frozenset({WITHOUT_CHANNELS, WITHOUT_TOKENS})


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputNoise(Additive):
    """Sums over calls, one entry a way to quantize; ``[2, ways]`` but for the counts."""

    #: Samples and elements, int64.
    n: Tensor
    elements: Tensor
    #: Energy of the output about its channels' means, ``[2]``.
    signal: Tensor
    noise: Tensor
    #: Σ ⟨g, Δy⟩ and Σ ½⟨g, Δy⟩² over samples.
    first: Tensor
    second: Tensor

    def scalars(self) -> Mapping[str, Tensor]:
        """What there is without the names of the ways."""
        return {"n": self.n, "elements": self.elements}

    def of(self, ways: tuple[str, ...]) -> dict[str, Tensor]:
        """Three numbers a way, under these names."""
        signal = compensated.total(self.signal)
        found = dict(self.scalars())
        for k, way in enumerate(ways):
            noise, first, second = (
                compensated.total(sums)[k] for sums in (self.noise, self.first, self.second)
            )
            values = {
                f"{way}.noise_share": (ratio(noise, signal), signal != 0),
                f"{way}.loss_change": (ratio(first, self.n), self.n != 0),
                f"{way}.loss_scatter": (ratio(second, self.n), self.n != 0),
            }
            found |= known(values)
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoiseByWay:
    """The noise of one layer's output under several ways to quantize its operands."""

    ways: tuple[str, ...]
    sums: OutputNoise

    def merge(self, other: "NoiseByWay") -> "NoiseByWay":
        if self.ways != other.ways:
            raise InputError(
                f"two calls of one layer were quantized in other ways, {', '.join(self.ways)} and "
                f"{', '.join(other.ways)}; change recipes between two flushes."
            )
        return NoiseByWay(ways=self.ways, sums=self.sums.merge(other.sums))

    def to(self, device: torch.device | str) -> "NoiseByWay":
        return NoiseByWay(ways=self.ways, sums=self.sums.to(device))

    def scalars(self) -> Mapping[str, Tensor]:
        """Three numbers a way, ``rotated.noise_share`` and alike."""
        return self.sums.of(self.ways)

    def arrays(self) -> Mapping[str, Tensor]:
        return {}


class OutputError:
    """Noise of a layer's output under its recipe, and under the remedies that one could take.

    The input and the weight of one call are multiplied in high precision and once a *way*: as it
    is (the layer's own quantizer), as intended (what the recipe says), with one operand in high
    precision, rotated, smoothed, with integer scales of other granularities (of a weight that has
    one scale: with one for each output channel), and as intended but for the channels, or the
    tokens, that are out of line, which go in high precision. Of each::

        noise_share   Σ ‖Δy‖² / Σ ‖y − mean of its channel‖², y as the layer passes it on
        loss_change   mean over samples of ⟨g, Δy⟩: what the loss changes by, to first order
        loss_scatter  mean of ½⟨g, Δy⟩², which does not cancel near a minimum

    with g the gradient of the summed loss at the output. Local to the layer: its input is what the
    quantized model gives it. Needs a backward pass. ``bias`` of noise: none, all examples that were
    copied are counted; the shares of a few examples estimate those of the batch.

    Reference: first-order loss change, Nocedal, Wright 2006, "Numerical Optimization", sec. 2.2.
    """

    name = "output_error"
    needs: frozenset[Role | Field] = frozenset({Role.INPUT, Role.OUTPUT, Role.WEIGHT})
    every = 100
    #: It multiplies once a way: asked for by analyzers, not by everybody who trains.
    default = False

    def __init__(self, recipe: str | QuantRecipe | None = None) -> None:
        self._wanted = wanted(recipe)

    def selects(self, site: Site) -> bool:
        return site.role is Role.GRAD_OUTPUT and site.kind.startswith(("linear", "conv"))

    def compares(self, site: Site, setup: Setup | None) -> bool:
        asked = self._wanted or setup
        return asked is not None and asked.recipe.fprop.quantizes

    def observe(self, view: SiteView) -> NoiseByWay | None:
        setup = self._wanted or view.setup
        if setup is None or view.module is None or not setup.recipe.fprop.quantizes:
            return None
        if not view[Role.INPUT].numel() or not view[Role.GRAD_OUTPUT].numel():
            return None
        call = _Call.of(view, view.module, setup)
        return NoiseByWay(ways=tuple(call.ways), sums=call.sums())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Call:
    """One call: what it multiplied, what came out, and the gradient there."""

    kernel: Kernel
    x: Tensor
    w: Tensor
    y: Tensor
    g: Tensor
    channels: Channels
    ways: Mapping[str, Setup]

    @classmethod
    def of(cls, view: SiteView, module: nn.Module, setup: Setup) -> "_Call":
        g, x, w, y = (
            view[role] for role in (Role.GRAD_OUTPUT, Role.INPUT, Role.WEIGHT, Role.OUTPUT)
        )
        if x.dim() == w.dim() - 1:  # a single example
            x, y, g = x.unsqueeze(0), y.unsqueeze(0), g.unsqueeze(0)
        kernel, x = kernel_of(module, x.to(y.dtype), w, y.shape)
        return cls(
            kernel=kernel,
            x=x,
            w=w.to(y.dtype),
            y=y,
            g=g,
            channels=Channels.of(module, view.site.path).outputs_first,
            ways=ways(setup, kernel),
        )

    def sums(self) -> OutputNoise:
        wide = torch.promote_types(self.x.dtype, torch.float32)
        high = Setup(recipe=catalogue.BF16)
        exact = self._product(self.x.to(wide), self.w.to(wide), high)
        noises, firsts, seconds = [], [], []
        for way, setup in self.ways.items():
            x, w = self._operands(way)
            made = self._product(x, w, setup).to(wide)
            # What was left out is exact, so only the rest differs.
            whole = self._product(x.to(wide), w.to(wide), high) if way in _WITHOUT else exact
            change = (made - whole).double()
            felt = (change * self.g.double()).flatten(1).sum(1)
            noises.append(change.square().sum())
            firsts.append(felt.sum())
            seconds.append(0.5 * felt.square().sum())
        return OutputNoise(
            n=torch.full((), len(self.y), dtype=torch.int64, device=self.y.device),
            elements=torch.full((), self.y.numel(), dtype=torch.int64, device=self.y.device),
            signal=compensated.start(self._about_means().square().sum()),
            noise=compensated.start(torch.stack(noises)),
            first=compensated.start(torch.stack(firsts)),
            second=compensated.start(torch.stack(seconds)),
        )

    def _product(self, x: Tensor, w: Tensor, setup: Setup) -> Tensor:
        return Products(x=x, w=w, kernel=self.kernel, setup=setup).fprop()

    def _about_means(self) -> Tensor:
        """The output without the mean of each channel, which norms and biases take away anyway."""
        y = self.y.double()
        tokens = y.movedim(1, -1) if self.channels.conv else y
        rows = tokens.reshape(-1, tokens.shape[-1])
        return rows - rows.mean(0)

    def _operands(self, way: str) -> tuple[Tensor, Tensor]:
        """Input and weight as a way takes them."""
        if way == SMOOTHED:
            return self._smoothed()
        if way == WITHOUT_CHANNELS:
            kept = ~outlying_channels(self.x, self.w, self.channels)
            x = torch.where(self.channels.on_input(kept), self.x, 0.0)
            return x, self.channels.scaled_inputs(self.w, kept.to(self.w.dtype))
        if way == WITHOUT_TOKENS:
            return torch.where(outlying_tokens(self.x, self.channels.space), 0.0, self.x), self.w
        return self.x, self.w

    def _smoothed(self) -> tuple[Tensor, Tensor]:
        """Factors that halve, in octaves, what channels of x and of w differ by: the product stays.

        Reference: Xiao et al. 2023, "SmoothQuant", eq. 4 with α = 0.5.
        """
        axis = -1 - self.channels.space
        others = [axis_ for axis_ in range(self.x.dim()) if axis_ != self.x.dim() + axis]
        inputs = self.x.float().abs().amax(others)
        weights = self.channels.input_absmax(self.w.float())
        both = (inputs > 0) & (weights > 0)
        factors = torch.where(both, (inputs / weights).sqrt(), 1.0).to(self.x.dtype)
        x = self.x / self.channels.on_input(factors)
        return x, self.channels.scaled_inputs(self.w, factors)


def ways(setup: Setup, kernel: Kernel) -> dict[str, Setup]:
    """The ways to quantize a layer that are compared, by name; the first two always."""
    recipe = setup.recipe
    found = {AS_IT_IS: setup, INTENDED: Setup(recipe=recipe)}
    found |= dict.fromkeys((WITHOUT_CHANNELS, WITHOUT_TOKENS), found[INTENDED])
    gemm = recipe.fprop
    plain = Gemm(a=gemm.a, b=gemm.b)
    if isinstance(gemm.a, QuantSpec):
        found[X_HIGH] = _with(recipe, replace(plain, a=None))
    if isinstance(gemm.b, QuantSpec):
        found[W_HIGH] = _with(recipe, replace(plain, b=None))
    if isinstance(gemm.a, QuantSpec) and isinstance(gemm.b, QuantSpec):
        found[SMOOTHED] = Setup(recipe=recipe)
        if gemm.hadamard is None and _in_blocks(gemm.a, gemm.b):
            one_d = [replace(spec, tile=Tile.ONE_D) for spec in (gemm.a, gemm.b)]
            found[ROTATED] = _with(recipe, Gemm(a=one_d[0], b=one_d[1], hadamard=SIZE))
    if isinstance(gemm.a, QuantSpec) and isinstance(gemm.a.format, IntFormat):
        position = Granularity.TOKEN if kernel.linear else Granularity.VOXEL
        for granularity in (Granularity.TENSOR, Granularity.CHANNEL, position):
            a = replace(gemm.a, granularity=granularity)
            found[f"x_{granularity}"] = _with(recipe, replace(plain, a=a))
    if isinstance(gemm.b, QuantSpec) and _one_scale(gemm.b):
        b = replace(gemm.b, granularity=Granularity.CHANNEL)
        found[W_CHANNEL] = _with(recipe, replace(plain, b=b))
    return found


def _one_scale(spec: QuantSpec) -> bool:
    return isinstance(spec.format, IntFormat) and spec.granularity is Granularity.TENSOR


def _in_blocks(*specs: QuantSpec) -> bool:
    return all(isinstance(spec.format, BlockFormat) for spec in specs)


def _with(recipe: QuantRecipe, fprop: Gemm) -> Setup:
    return Setup(recipe=replace(recipe, fprop=fprop, dgrad=Gemm(), wgrad=Gemm()))
