"""Who diagnoses: simple baselines, and analyzers by the protocol of qprobe.analyzers.base.

A doctor is a function from a subject to a :class:`Diagnosis`. It sees the model's tensors and the
recipe that was intended; nobody tells it what was planted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from qprobe.analyzers.base import Subject
from qprobe.analyzers.diagnosis import diagnose
from qprobe.quant.catalogue import BF16
from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.products import Setup
from qprobe.quant.ptq.twin import twin
from qprobe.records.schema import Cause, Finding, Severity
from qprobe.stats import Moments

#: A layer is out of line when it is so many median distances above the median of all layers.
FAR = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Sites with a cause, the worst first, and whether there is anything to complain about."""

    ranked: tuple[tuple[str, str], ...]
    alarm: bool


Doctor = Callable[[Subject], Diagnosis]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What one layer did with one batch."""

    x: Tensor
    y: Tensor
    exact: Tensor
    weight: Tensor


def _look(subject: Subject) -> dict[str, _Seen]:
    """Input and output of every quantized layer on the first batch, and what it should give."""
    seen: dict[str, _Seen] = {}
    handles = []
    for path, layer in subject.model.named_modules():
        if isinstance(layer, QuantizedLayer):
            handles.append(layer.register_forward_hook(_keeping(path, seen)))
    try:
        with torch.no_grad():
            subject.forward(subject.model, next(iter(subject.batches())))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _keeping(path: str, seen: dict[str, _Seen]) -> Callable[..., None]:
    def keep(layer: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        weight = layer.get_parameter("weight")
        exact = twin(layer, weight, Setup(recipe=BF16)).forward(args[0])
        bias = layer._parameters.get("bias")  # noqa: SLF001
        if bias is not None:
            exact = exact + bias.view(-1, *[1] * (weight.dim() - 2))
        seen[path] = _Seen(x=args[0], y=y, exact=exact, weight=weight.detach())

    return keep


def _by(score: Callable[[_Seen], float], cause: Cause) -> Doctor:
    """Rank layers by a number, the largest first; complain where one is far from the others."""

    def diagnose(subject: Subject) -> Diagnosis:
        scores = {path: score(seen) for path, seen in _look(subject).items()}
        ranked = sorted(scores, key=lambda path: -scores[path])
        middle = median(scores.values())
        spread = median(abs(value - middle) for value in scores.values())
        alarm = scores[ranked[0]] - middle > FAR * spread
        return Diagnosis(ranked=tuple((path, cause) for path in ranked), alarm=alarm)

    return diagnose


def _kurtosis(seen: _Seen) -> float:
    found = torch.cat([Moments.of(tensor).kurtosis().view(-1) for tensor in (seen.x, seen.weight)])
    # A constant tensor, behind a layer that gives nothing, has none.
    return float(torch.log10(found.clamp(min=1.0)).amax()) if found.numel() else 0.0


def _noise_to_signal(seen: _Seen) -> float:
    noise = (seen.y - seen.exact).double().square().sum().clamp(min=1e-30)
    signal = seen.exact.double().square().sum().clamp(min=1e-30)
    return float(10.0 * torch.log10(noise / signal))


def _mse(seen: _Seen) -> float:
    return float((seen.y - seen.exact).double().square().mean())


BASELINES: dict[str, Doctor] = {
    "highest kurtosis": _by(_kurtosis, Cause.CHANNEL_OUTLIER),
    "lowest SQNR": _by(_noise_to_signal, Cause.TOO_FEW_BITS),
    "largest MSE": _by(_mse, Cause.SCALE_WRONG),
}


def analyzers(names: Sequence[str], batches: int | None = None) -> Doctor:
    """Registered analyzers, as one doctor: what :func:`qprobe.analyzers.diagnosis.diagnose` says.

    Passive ones read an observation of the first ``batches``.
    """

    def ask(subject: Subject) -> Diagnosis:
        return of_findings(diagnose(subject, names, batches=batches).findings)

    return ask


def of_findings(findings: Sequence[Finding]) -> Diagnosis:
    """Sites and causes in the order of the findings; a warning is an alarm."""
    return Diagnosis(
        ranked=tuple((site, finding.cause) for finding in findings for site in finding.sites),
        alarm=any(finding.severity.reaches(Severity.WARN) for finding in findings),
    )
