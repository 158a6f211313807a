"""What a training is: one frozen value, checked when it is made, stored with the run, hashed whole.

Two trainings with the same hash are the same training: nothing that changes a result lives outside.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Self, get_type_hints

from qprobe.errors import InputError

#: Options by name: truth values, numbers, text, nothing, and tuples of them.
Options = tuple[tuple[str, Any], ...]


class Schedule(StrEnum):
    """How the learning rate moves."""

    PLATEAU = "plateau"
    """Halved when the validation score has not risen for ten epochs."""
    COSINE = "cosine"
    """Down to zero along half a cosine over the whole training, after ``warmup`` steps up."""
    CONSTANT = "constant"


class Precision(StrEnum):
    """What everything that the recipe does not quantize is computed in."""

    AUTO = "auto"
    """bfloat16 autocast on a GPU that has it, float32 elsewhere."""
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    """float16 autocast with a loss scale."""


class OnNonFinite(StrEnum):
    """What follows a loss that is NaN or infinite; it is recorded first, whatever follows."""

    STOP = "stop"
    CONTINUE = "continue"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training from its first weight to its last score.

    ``None`` in ``optimizer``, ``lr`` and ``weight_decay`` takes the protocol of the architecture
    (:func:`protocol`). ``steps`` caps the number of optimizer steps, whatever ``epochs`` says.
    ``fold`` trains one of ``folds`` cross-validation folds instead of the hold-out split; its test
    set is that fold, whatever ``test`` says.

    >>> TrainConfig(arch="swin", recipe="nvfp4-2d-rht-sr").resolved().optimizer
    'adamw'
    """

    arch: str = "cnn"
    size: str = "500k"
    image: int = 64
    patch: int | None = None
    model: Options = ()
    recipe: str = "bf16"
    layers: str = "mid"
    data: str = "phantom"
    data_options: Options = ()
    validation: float = 0.1
    test: float = 0.1
    split_seed: int = 0
    fold: int | None = None
    folds: int = 5
    augment: bool = True
    seed: int = 0
    epochs: int = 100
    steps: int | None = None
    batch: int = 32
    accumulate: int = 1
    optimizer: str | None = None
    lr: float | None = None
    weight_decay: float | None = None
    clip: float | None = None
    schedule: Schedule = Schedule.PLATEAU
    warmup: int = 0
    patience: int = 20
    grace: int = 40
    min_delta: float = 0.001
    precision: Precision = Precision.AUTO
    device: str = "auto"
    on_nonfinite: OnNonFinite = OnNonFinite.STOP
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        self._check_types()
        for name, low in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise InputError(f"{name} is at least {low}, got {value}.")
        for name, allowed in _ONE_OF.items():
            value = getattr(self, name)
            if value not in allowed:
                names = ", ".join(str(one) for one in allowed if one is not None)
                raise InputError(f"{name} is one of {names}, got {value!r}.")
        if self.clip == 0:
            raise InputError("clip is above 0, got 0.0, which would leave no gradient.")
        self._check_shares()
        self._check_together()

    def _check_types(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            read = _read(name, kind, value)
            # A text equals the enum of its name and is not one: `is` would not find it.
            if isinstance(read, StrEnum | tuple) and type(read) is not type(value):
                raise InputError(f"{name} is of type {type(read).__name__}, got {value!r}.")

    def _check_shares(self) -> None:
        for name in ("validation", "test"):
            share = getattr(self, name)
            if not share > 0 or (share >= 1 and share % 1):
                raise InputError(
                    f"{name} is a share between 0 and 1 or a whole number of patients, got {share}."
                )

    def _check_together(self) -> None:
        """Settings that are fine by themselves and contradict each other."""
        if self.fold is not None and not self.fold < self.folds:
            raise InputError(f"fold counts from 0 to {self.folds - 1}, got {self.fold}.")
        if self.schedule is Schedule.PLATEAU and self.warmup:
            raise InputError("the plateau schedule has no warm-up; use cosine or constant.")
        if self.batch % self.accumulate:
            raise InputError(
                f"accumulate splits a batch into equal parts: {self.batch} samples do not make "
                f"{self.accumulate}."
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From a mapping as TOML or JSON gives it; unknown keys and wrong types are errors."""
        kinds = get_type_hints(cls)
        unknown = sorted(given.keys() - kinds.keys())
        if unknown:
            near = get_close_matches(unknown[0], kinds, n=3, cutoff=0.5)
            meant = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(kinds)}."
            raise InputError(f"a training has no setting {unknown[0]!r}; {meant}")
        return cls(**{name: _read(name, kinds[name], value) for name, value in given.items()})

    def resolved(self) -> Self:
        """With the architecture's protocol in place of every ``None`` that stands for it."""
        optimizer, lr, weight_decay = protocol(self.arch)
        return replace(
            self,
            optimizer=self.optimizer or optimizer,
            lr=lr if self.lr is None else self.lr,
            weight_decay=weight_decay if self.weight_decay is None else self.weight_decay,
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values, every field: equal settings give equal text, as JSON gives it back."""
        kinds = get_type_hints(type(self))
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _plain(kinds[name], value) for name, value in values.items()}

    @property
    def hash(self) -> str:
        """SHA-256 of every field, in hexadecimal."""
        text = json.dumps(self.resolved().as_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


OPTIMIZERS = ("adamax", "adamw", "adam", "sgd")

#: The values of a setting that is a name.
_ONE_OF: dict[str, tuple[str | None, ...]] = {
    "layers": ("mid", "all"),
    "optimizer": (None, *OPTIMIZERS),
}

#: The least value of a setting, where it has one.
_AT_LEAST = {
    "image": 1, "seed": 0, "split_seed": 0, "fold": 0, "folds": 2, "epochs": 1, "steps": 1,
    "batch": 1, "accumulate": 1, "lr": 0.0, "weight_decay": 0.0, "clip": 0.0, "warmup": 0,
    "patience": 1, "grace": 0, "min_delta": 0.0, "checkpoint_every": 1,
}  # fmt: skip

#: Optimizer, learning rate and weight decay of the study, by architecture.
_PROTOCOLS = {
    "cnn": ("adamax", 5e-4, 0.0),
    "vit": ("adamw", 1e-4, 1e-4),
    "swin": ("adamw", 1e-4, 1e-4),
}


def protocol(arch: str) -> tuple[str, float, float]:
    """Optimizer, learning rate and weight decay for an architecture; AdamW for foreign ones."""
    return _PROTOCOLS.get(arch, ("adamw", 1e-4, 1e-4))


def _plain(kind: Any, value: Any) -> Any:
    if kind == Options:
        return {name: _lists(option) for name, option in value}
    return value.value if isinstance(value, StrEnum) else _read("", kind, value)


def _read(name: str, kind: Any, value: Any) -> Any:
    """``value`` as a field of this kind takes it."""
    if kind == Options:
        return _options(name, value)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(value)
        except ValueError:
            raise InputError(f"{name} is one of {', '.join(kind)}, got {value!r}.") from None
    allowed = (kind,) if isinstance(kind, type) else tuple(kind.__args__)
    if type(value) is int and int not in allowed and float in allowed:
        value = float(value)
    if type(value) not in allowed:
        wanted = kind.__name__ if isinstance(kind, type) else str(kind).replace(" | None", "")
        raise InputError(f"{name} is of type {wanted}, got {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} is a finite number, got {value}.")
    return value


def _options(name: str, value: Any) -> Options:
    """Sorted, and deeply immutable."""
    try:
        given = dict(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is a table of options, got {value!r}.") from None
    return tuple((key, _option(f"{name}.{key}", given[key])) for key in sorted(given))


def _option(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_option(name, one) for one in value)
    if value is not None and type(value) not in (bool, int, float, str):
        raise InputError(
            f"{name} is a truth value, a number, a text or a list of them, got {value!r}."
        )
    return value


def _lists(option: Any) -> Any:
    return [_lists(one) for one in option] if isinstance(option, tuple) else option
