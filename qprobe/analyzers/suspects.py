"""From findings to the layers whose remedies are tried; and what the score says of the rest."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from qprobe.analyzers.dequantization.emit import Measured
from qprobe.quant.layers import QuantizedLayer
from qprobe.records.schema import Finding, Record, Role, Severity, severity

#: A branch is starved of gradient: its site is where gradients part.
_BACKWARD = {Role.GRAD_OUTPUT, Role.GRAD_WEIGHT, Role.BRANCH}
_ORDER = list(Severity)


def suspects(
    findings: Sequence[Finding], model: nn.Module, most: int
) -> tuple[list[str], list[str], list[str]]:
    """Layers with a guilty forward product, with guilty backward products, and those left out.

    The gravest first; of the first kind at most ``most``, the rest is the third list. Information
    alone makes no suspect.
    """
    forward: dict[str, None] = {}
    backward: dict[str, None] = {}
    layers = {p for p, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    grave = sorted(findings, key=lambda one: -_ORDER.index(one.severity))
    for one in grave:
        if one.severity is Severity.INFO or len(one.sites) != 1 or one.sites[0] not in layers:
            continue
        if of_training(one):
            backward.setdefault(one.sites[0])
        else:
            forward.setdefault(one.sites[0])
    chosen = list(forward)
    return chosen[:most], list(backward)[:most], chosen[most:]


def without_loss(findings: Sequence[Finding], records: Sequence[Record]) -> list[Finding]:
    """Findings, the gravest first, where the score has the last word on the forward products.

    Where the score of the whole model was measured and quantization costs it nothing that would be
    a warning, what a statistic finds odd about a forward product is information: it costs nothing
    on these data. The backward products are not part of an evaluation and keep their severity.
    """
    measured = Measured(records)
    gap, high = measured.interval("gap"), measured.interval("score.high_precision")
    found = list(findings)
    if gap is None or high is None or not high.estimate:
        costs = True
    else:
        costs = severity(gap.low / abs(high.estimate)) is not Severity.INFO
    if not costs:
        found = [one if of_training(one) else _harmless(one) for one in found]
    return sorted(found, key=lambda one: -_ORDER.index(one.severity))


def _harmless(one: Finding) -> Finding:
    if one.severity is Severity.INFO:
        return one
    return replace(one, severity=Severity.INFO, claim=f"{one.claim}; the score does not suffer")


def of_training(one: Finding) -> bool:
    """Whether a finding is about the backward products, which no evaluation sees."""
    return bool(_BACKWARD & set(one.roles)) or "loss decrease" in one.unit
