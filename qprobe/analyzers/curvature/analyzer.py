"""The analyzer: what is measured of a subject, in which order, and what it is called."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qprobe.analyzers.base import Subject
from qprobe.analyzers.curvature import pyhessian_peer
from qprobe.analyzers.curvature.expansion import Change, Floats, changed_losses, expand, weighted
from qprobe.analyzers.curvature.findings import PROBE, findings
from qprobe.analyzers.curvature.hessian import gradient, hessian, parts
from qprobe.analyzers.curvature.replica import Replica
from qprobe.errors import InputError
from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.weight_error import weight_error
from qprobe.records.schema import Array, Finding, Record, Role
from qprobe.stats import Estimate, Operator, block_traces, spectral_density

#: Points at which the density is recorded, and the spread of a node in shares of the range.
_POINTS = 256
_WIDTH = 0.02
#: Two unrelated products would be apart by about 1/√rows of their size; rounding in float32 leaves
#: less than a thousandth of that.
_ASYMMETRY = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Curvature:
    """Asks whether the minimum that was found tolerates the noise of quantization.

    Cost in products with the Hessian: ``draws`` for the trace and as many for the layers',
    ``eigenvalues × iterations`` at most, ``2 × steps`` for the density, and for the weights' error
    one pass back for each quantized layer and part of the data. Memory: the activations of the
    batches with their gradients' graphs, and ``steps`` vectors as long as all parameters.
    """

    #: Random vectors for traces.
    draws: int = 10
    #: Eigenvalues of largest magnitude, and power iterations for each at most.
    eigenvalues: int = 2
    iterations: int = 15
    #: Lanczos steps of each of the two directions of the density.
    steps: int = 15
    #: The loss is that of the first so many batches.
    batches: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for field, least in (("draws", 2), ("batches", 1), ("iterations", 1), ("steps", 1)):
            if getattr(self, field) < least:
                raise InputError(f"{field} is at least {least}, got {getattr(self, field)}.")
        if self.eigenvalues < 1:
            raise InputError(f"eigenvalues is at least 1, got {self.eigenvalues}.")

    @property
    def name(self) -> str:
        """What its records and findings are filed under."""
        return PROBE

    @property
    def reads(self) -> frozenset[str]:
        """Its own records."""
        return frozenset({PROBE})

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """Whether the weights' error costs anything, and where."""
        return findings(records)

    def measure(self, subject: Subject) -> Iterator[Record | Array]:
        """Everything at the same weights in high precision, on a copy of the model."""
        replica = Replica(subject, self.batches)
        errors = {
            path: error
            for path, module in subject.model.named_modules()
            if isinstance(module, QuantizedLayer) and (error := weight_error(module)) is not None
        }
        if replica.widened:
            yield _record("", "widened", 1.0)
        owners = _owners(replica, errors)
        operator = hessian(replica, keep=True)
        generator = torch.Generator().manual_seed(self.seed)
        yield _record("", "samples", replica.total)
        yield _record("", "parameters", operator.size)
        stages: tuple[Callable[[], Iterable[Record | Array]], ...] = (
            lambda: _symmetry(hessian(replica), subject.name, generator),
            lambda: _errors(replica, owners, errors),
            lambda: self._traces(replica, operator, owners, generator),
            lambda: self._eigenvalues(replica, operator),
            lambda: self._density(operator, generator),
        )
        for stage in stages:
            # A stage is finished before anything of it is given out, so that who takes the records
            # sees the random state and the settings that it had.
            with replica.undisturbed():
                found = list(stage())
            yield from found

    def _traces(
        self,
        replica: Replica,
        operator: Operator,
        owners: dict[str, str],
        generator: torch.Generator,
    ) -> Iterator[Record]:
        whole = pyhessian_peer.trace(replica, self.draws, self.seed)
        yield from _estimate("", "trace", whole)
        sizes = [value.numel() for value in replica.values]
        traces = block_traces(operator, sizes, self.draws, generator)
        by_name = dict(zip(replica.names, traces, strict=True))
        for path, name in owners.items():
            yield from _estimate(path, "trace", by_name[name], Role.WEIGHT)

    def _eigenvalues(self, replica: Replica, operator: Operator) -> Iterator[Record]:
        top = pyhessian_peer.top_eigenvalues(
            replica, operator, self.eigenvalues, self.iterations, self.seed
        )
        for at, (value, residual) in enumerate(zip(top.values, top.residuals, strict=True)):
            yield _record("", f"eigenvalue{at}", value)
            yield _record("", f"eigenvalue{at}.residual", residual)

    def _density(self, operator: Operator, generator: torch.Generator) -> Iterator[Record | Array]:
        spectrum = spectral_density(operator, 2, self.steps, generator)
        nodes = np.concatenate(spectrum.nodes)
        reach = max(float(np.ptp(nodes)), 1e-12)
        low, high = nodes.min() - 0.1 * reach, nodes.max() + 0.1 * reach
        grid = np.linspace(low, high, _POINTS)
        density = np.stack([grid, spectrum.density(grid, _WIDTH * reach)])
        yield Array(step=0, site="", role="", probe=PROBE, key="density", data=density)
        yield from _estimate("", "negative_share", spectrum.share_below(-1e-3 * reach))


def _symmetry(operator: Operator, subject: str, generator: torch.Generator) -> Iterator[Record]:
    """Refuse what is no Hessian: a loss that differs between calls, a derivative cut off."""
    found = operator.asymmetry(generator)
    yield _record("", "asymmetry", found)
    if found > _ASYMMETRY / operator.size**0.5:
        raise InputError(
            f"the Hessian of {subject} is not symmetric (uᵀHv and vᵀHu differ by {found:.2g} of "
            "their size): its loss is not the same at every call or hides part of its derivative; "
            "take out what is random in evaluation mode, such as dropout called by hand."
        )


def _errors(
    replica: Replica, owners: dict[str, str], errors: dict[str, Tensor]
) -> Iterator[Record]:
    """What the weights' errors cost to second order, by layer and together, and what was measured.

    The last change is along the gradient: it belongs to no layer and not to the sum.
    """
    steep = gradient(replica)
    along: Change = dict(zip(replica.names, parts(steep, replica.values), strict=True))
    changes: list[Change] = [{owners[path]: error} for path, error in errors.items()]
    found = expand(replica, [*changes, along])
    k, slope = len(changes), float(steep.double().square().sum())
    yield _record("", "units", len(found.samples))
    yield _record("", "gradient_norm", slope**0.5)
    if slope > 0:
        curved, spread = found.mean(found.second[:, k, k])
        yield _record("", "along_gradient", curved / slope)
        yield _record("", "along_gradient.stderr", spread / slope)
    for at, (path, error) in enumerate(errors.items()):
        yield _record(path, "error_norm", float(error.double().norm()), Role.WEIGHT)
        first, second = found.first[:, at], found.second[:, at, at]
        yield from _orders(path, first, second, found.samples)
    if not changes:
        return
    first = found.first[:, :k].sum(axis=1)
    second = found.second[:, :k, :k].sum(axis=(1, 2))
    yield from _orders("", first, second, found.samples)
    together = {name: error for change in changes for name, error in change.items()}
    measured = weighted(changed_losses(replica, together), found.samples)
    yield from _with_error("", "measured", measured)
    base = sum(float(replica.losses(index).detach().sum()) for index in range(len(replica.batches)))
    yield _record("", "loss", base / replica.total)


def _orders(site: str, first: Floats, second: Floats, samples: Floats) -> Iterator[Record]:
    role = Role.WEIGHT if site else ""
    yield from _with_error(site, "first_order", weighted(first, samples), role)
    yield from _with_error(site, "second_order", weighted(0.5 * second, samples), role)
    yield from _with_error(site, "predicted", weighted(first + 0.5 * second, samples), role)


def _owners(replica: Replica, errors: dict[str, Tensor]) -> dict[str, str]:
    """For each layer the name under which the replica lists its weight (the first, if shared)."""
    names = {id(value): name for name, value in replica.model.named_parameters()}
    return {path: names[id(replica.model.get_submodule(path).weight)] for path in errors}


def _estimate(site: str, key: str, found: Estimate, role: str = "") -> Iterator[Record]:
    yield _record(site, key, found.estimate, role)
    if found.stderr is not None:
        yield _record(site, f"{key}.stderr", found.stderr, role)
    yield _record(site, f"{key}.draws", found.draws, role)


def _with_error(
    site: str, key: str, found: tuple[float, float], role: str = ""
) -> Iterator[Record]:
    yield _record(site, key, found[0], role)
    yield _record(site, f"{key}.stderr", found[1], role)


def _record(site: str, key: str, value: float, role: str = "") -> Record:
    return Record("", 0, site, role, PROBE, key, float(value))
