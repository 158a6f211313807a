"""What a run holds: the types that writers give, readers return and analyzers pass on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qprobe.errors import InputError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

#: Largest array that a run takes, in bytes: 512 × 512 float32.
ARRAY_BYTES = 2**20

#: Lower bounds of the relative score loss from which a finding warns and from which it is critical.
WARN_LOSS = 0.005
CRITICAL_LOSS = 0.02


class Role(StrEnum):
    """Which tensor of a module was looked at."""

    INPUT = "input"
    OUTPUT = "output"
    WEIGHT = "weight"
    GRAD_OUTPUT = "grad_output"
    GRAD_WEIGHT = "grad_weight"
    ATTN_LOGITS = "attn_logits"
    ATTN_PROBS = "attn_probs"
    BRANCH = "branch"


class Cause(StrEnum):
    """Why a model loses accuracy in low precision."""

    CHANNEL_OUTLIER = "channel_outlier"
    SPATIAL_OUTLIER = "spatial_outlier"
    LOGIT_OFFSET = "logit_offset"
    LOGIT_GROWTH = "logit_growth"
    SCALE_MISSING = "scale_missing"
    SCALE_WRONG = "scale_wrong"
    BRANCH_DEAD = "branch_dead"
    ROUNDING_BIAS = "rounding_bias"
    WRONG_AXIS = "wrong_axis"
    TOO_FEW_BITS = "too_few_bits"
    NOT_EXPLAINED = "not_explained"


class Severity(StrEnum):
    """How urgent a finding is; compare with :meth:`reaches`, since the values are plain text."""

    INFO = "info"
    WARN = "warn"
    CRITICAL = "critical"

    def reaches(self, threshold: "Severity") -> bool:
        """Whether this is at least as urgent as ``threshold``.

        >>> Severity.CRITICAL.reaches(Severity.WARN), Severity.INFO.reaches(Severity.WARN)
        (True, False)
        """
        order = list(Severity)
        return order.index(self) >= order.index(threshold)


def severity(loss_low: float | None, *, unscored: Severity = Severity.INFO) -> Severity:
    """Severity from the lower bound of the relative score loss (0.02 is two percent).

    Critical from 2 %, a warning from 0.5 %, else information. The lower bound decides, so that a
    large effect that is not sure stays small. Without a score (``loss_low=None``) it is
    ``unscored``, and at most a warning.

    >>> [str(severity(low)) for low in (0.02, 0.005, 0.0049, -1.0)]
    ['critical', 'warn', 'info', 'info']
    >>> str(severity(None, unscored=Severity.CRITICAL))
    'warn'
    """
    if loss_low is None:
        return Severity.WARN if unscored.reaches(Severity.WARN) else unscored
    if math.isnan(loss_low):
        raise InputError("a severity needs the lower bound of the score loss, got NaN; pass None.")
    if loss_low >= CRITICAL_LOSS:
        return Severity.CRITICAL
    return Severity.WARN if loss_low >= WARN_LOSS else Severity.INFO


class Status(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class Column(NamedTuple):
    """What a scalar is about; the history of one column over the steps is a series."""

    site: str
    role: str
    probe: str
    key: str

    def __str__(self) -> str:
        return " ".join(part or "-" for part in self)


@dataclass(frozen=True, slots=True)
class Record:
    """One scalar that was measured. A head goes into the key: ``"head3.snr_db"``."""

    run: str
    step: int
    site: str
    role: str
    probe: str
    key: str
    value: float

    @property
    def column(self) -> Column:
        """What the value is about."""
        return Column(self.site, self.role, self.probe, self.key)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """The values of one column where they were measured: a step that is absent was not measured.

    ``steps`` is int64 and increasing, ``values`` float64 of the same length.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.steps)


class Point(NamedTuple):
    """One value of a column and the step at which it was measured."""

    step: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Array:
    """A histogram, spectrum, sampled map or image; booleans and numbers, at most 1 MiB."""

    step: int
    site: str
    role: str
    probe: str
    key: str
    data: NDArray[Any]

    def __post_init__(self) -> None:
        name = f"the array {self.column} of step {self.step}"
        if self.data.dtype.kind not in "biuf" or self.data.dtype.itemsize > 8:
            raise InputError(
                f"{name} has dtype {self.data.dtype}; convert it to a boolean, integer or float "
                "dtype of at most 8 bytes."
            )
        if self.data.nbytes > ARRAY_BYTES:
            raise InputError(
                f"{name}, shape {self.data.shape}, has {self.data.nbytes:,} bytes, more than the "
                f"{ARRAY_BYTES:,} that a run takes; sample it or bin it."
            )

    @property
    def column(self) -> Column:
        """What the array is about."""
        return Column(self.site, self.role, self.probe, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One value of a whole split, such as a loss or a Dice score; ``step`` is the run's clock."""

    step: int
    split: str
    name: str
    value: float
    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The score of one sample, kept so that runs can be compared pair by pair.

    ``sample`` names it within its split, ``patient`` is the unit that splits and resampling use.
    """

    step: int
    split: str
    sample: str
    name: str
    value: float
    epoch: int | None = None
    patient: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An answer that a person can act on; it does not exist without ``n`` and an interval.

    ``effect`` with its interval ``[low, high]`` is in ``unit``; ``n`` counts what it rests on. A
    deterministic value has ``low = effect = high`` and the number of elements as ``n``.
    """

    analyzer: str
    claim: str
    cause: Cause
    severity: Severity
    sites: tuple[str, ...]
    roles: tuple[Role, ...]
    effect: float
    unit: str
    low: float
    high: float
    n: int
    control: str
    remedy: str
    reference: str

    def __post_init__(self) -> None:
        name = f"the finding {self.claim!r} of {self.analyzer!r}"
        if not is_whole(self.n) or self.n < 1:
            raise InputError(f"{name} has n = {self.n!r}; give the number of elements, at least 1.")
        for field in ("effect", "low", "high"):
            value = getattr(self, field)
            number = is_whole(value) or isinstance(value, float | np.floating)
            if not number or math.isnan(value):
                raise InputError(f"{name} has {field} = {value!r}; give a number.")
        if self.low > self.high:
            raise InputError(f"{name} has the interval [{self.low}, {self.high}]; swap its bounds.")
        for field, kind in (("cause", Cause), ("severity", Severity)):
            object.__setattr__(self, field, _member(kind, getattr(self, field), name))
        object.__setattr__(self, "sites", tuple(self.sites))
        object.__setattr__(self, "roles", tuple(_member(Role, role, name) for role in self.roles))


def _member(kind: type[StrEnum], value: str, name: str) -> StrEnum:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(kind)
        raise InputError(
            f"{name} has {kind.__name__.lower()} {value!r}; choose one of {known}."
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a run is, known before it starts.

    ``config`` and ``environment`` are stored whole as JSON; ``source`` says what an analysis looked
    at: the SHA-256 of the checkpoint and the id of the run that trained it.
    """

    config: Mapping[str, Json]
    environment: Mapping[str, Json]
    recipe: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta(RunInfo):
    """What a file says about its run.

    ``status`` is *interrupted* also where the writer died without a word; ``reason`` is what it
    said otherwise. ``created_s`` is in seconds since 1970; ``schema`` is the file's version.
    """

    run: str
    status: Status
    reason: str | None
    created_s: float
    schema: int


def is_whole(value: object) -> bool:
    """Whether ``value`` is an integer, of Python or NumPy, and not a boolean."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def as_row(item: Metric | Sample) -> tuple[Any, ...]:
    """The fields of a flat value, in their order, with NumPy's numbers as Python's."""
    plain = {
        "step": int(item.step),
        "value": float(item.value),
        "epoch": None if item.epoch is None else int(item.epoch),
    }
    return tuple(plain.get(field.name, getattr(item, field.name)) for field in fields(item))
