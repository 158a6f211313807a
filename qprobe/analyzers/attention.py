"""Is attention lost in its logits: by an offset, by their size, or by too few levels?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qprobe.analyzers.measured import Measured, Place
from qprobe.records.schema import Cause, Finding, Record, Role, Severity, severity

NAME = "attention"
LOGITS, LEVELS = "attention_logits", "softmax_levels"
#: Judged by nobody: an analysis records them for those who look at it.
MAPS = "attention_maps"
NATS = "nats of logit error"
CONTROL = "the same queries and keys in high precision"
REFERENCE = "docs/concepts/attention.md; docs/concepts/diagnosis.md, attention"
#: Nats of error from which softmax feels it: total variation is then about a tenth. Healthy heads
#: stay below 0.1.
FELT = 0.5
#: The same where it is no error of rounding alone, so that less is no accident.
FELT_OFFSET = 0.25
#: Ratio of signal to noise in dB. Independent rounding errors give 15 and more at any size of the
#: head; the errors of an offset that all keys share lie far below.
INDEPENDENT_DB = 10.0
#: Share of the levels of probabilities that is left, from which attention is in steps. Where the
#: product itself is in four bits, healthy attention keeps 0.18.
STEPS = 0.1

_HIGH = "keep the projection of queries and keys and the attention product in high precision"
_REMEDIES = {
    Cause.LOGIT_OFFSET: f"{_HIGH}, or subtract the mean key before rounding: softmax ignores it; "
    "a rotation spreads the offset over all channels and makes it worse",
    Cause.LOGIT_GROWTH: f"{_HIGH}, and bound the logits in training (a norm on queries and keys); "
    "a rotation does not help, the error grows with the logits",
    Cause.NOT_EXPLAINED: _HIGH,
}


class Attention:
    """Reads the error of logits in nats, their size, and the levels of probabilities, by head.

    The error in nats is what softmax feels; a ratio of signal to noise says where it comes from:
    errors of rounding alone have a ratio that does not depend on the size of the logits, so large
    errors at a good ratio are large logits, and at a bad ratio an offset.
    """

    name = NAME
    reads = frozenset({LOGITS, LEVELS, MAPS})

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """One finding an attention and cause, of its worst head."""
        logits, levels = Measured(records, LOGITS), Measured(records, LEVELS)
        found = []
        for place in logits.places(Role.ATTN_LOGITS):
            worst: dict[Cause, _Head] = {}
            for head in _heads(logits.at(place)):
                cause = _cause(head)
                if cause and (cause not in worst or head.error > worst[cause].error):
                    worst[cause] = head
            found += [_finding(place.site, cause, head) for cause, head in worst.items()]
            if not worst:
                found += _in_steps(place.site, levels)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    name: str
    error: float
    snr_db: float
    std: float
    n: int


def _heads(values: Mapping[str, float]) -> Iterator[_Head]:
    """Each head, by queries and keys or by projections, whichever is worse."""
    prefixes = [key[: key.index(".") + 1] for key in values if key.startswith("head")]
    for prefix in dict.fromkeys(prefixes) or [""]:
        for path, size in (("qk", "logit_std"), ("proj", "logit_std_proj")):
            error = values.get(f"{prefix}error_{path}_nats")
            snr, std = values.get(f"{prefix}snr_{path}_db"), values.get(prefix + size)
            if error is not None and snr is not None and std is not None:
                name = prefix.rstrip(".") or "all heads"
                n = int(values.get(f"n_{path}", values.get("n", 1)))
                yield _Head(name=name, error=error, snr_db=snr, std=std, n=max(1, n))


def _cause(head: _Head) -> Cause | None:
    if head.snr_db < INDEPENDENT_DB:
        return Cause.LOGIT_OFFSET if head.error >= FELT_OFFSET else None
    return Cause.LOGIT_GROWTH if head.error >= FELT else None


def _finding(site: str, cause: Cause, head: _Head) -> Finding:
    why = (
        f"only {head.snr_db:.1f} dB below logits of {head.std:.2g} nats: queries or keys share an "
        "offset that takes up the grid"
        if cause is Cause.LOGIT_OFFSET
        else f"the usual {head.snr_db:.1f} dB below logits that have grown to {head.std:.2g} nats"
    )
    return Finding(
        analyzer=NAME,
        claim=f"logits of {site} are off by {head.error:.2g} nats at {head.name}, {why}",
        cause=cause,
        severity=severity(None, unscored=Severity.WARN),
        sites=(site,),
        roles=(Role.ATTN_LOGITS,),
        effect=head.error,
        unit=NATS,
        low=head.error,
        high=head.error,
        n=head.n,
        control=CONTROL,
        remedy=_REMEDIES[cause],
        reference=REFERENCE,
    )


def _in_steps(site: str, levels: Measured) -> Iterator[Finding]:
    """Probabilities of which few levels are left, though logits are hardly off."""
    values = levels.at(Place(site, Role.ATTN_PROBS))
    left = values.get("levels_ratio")
    if left is None or left >= STEPS:
        return
    yield Finding(
        analyzer=NAME,
        claim=f"probabilities of {site} keep {left:.0%} of their levels",
        cause=Cause.NOT_EXPLAINED,
        severity=Severity.INFO,
        sites=(site,),
        roles=(Role.ATTN_PROBS,),
        effect=left,
        unit="share of levels",
        low=left,
        high=left,
        n=max(1, int(values.get("n", 1))),
        control=CONTROL,
        remedy=_REMEDIES[Cause.NOT_EXPLAINED],
        reference=REFERENCE,
    )
