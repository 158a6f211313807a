"""Splits by patient, stratified by how much lesion each patient has.

Patients are ranked by burden. A part of k patients takes one from each of k equal stretches of
the ranking, and k folds deal every run of k neighbours to different folds; so of the m patients
with the least burden, every part holds its share of m to within one patient, whatever m is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np

from qprobe.engine.data.dataset import Dataset
from qprobe.errors import InputError


class Part(StrEnum):
    """What the patients of a part are for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The patients of each part, in alphabetical order; no patient is in two of them."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        everyone = sorted((*self.train, *self.validation, *self.test))
        for patient, next_one in pairwise(everyone):
            if patient == next_one:
                raise InputError(
                    f"patient {patient!r} is in a split twice; give each patient one part."
                )

    def patients(self, part: Part) -> tuple[str, ...]:
        """The patients of one part."""
        return {Part.TRAIN: self.train, Part.VALIDATION: self.validation, Part.TEST: self.test}[
            part
        ]

    def indices(self, dataset: Dataset, part: Part) -> tuple[int, ...]:
        """The numbers of the samples of one part; every patient of the data has to be in one."""
        missing = set(dataset.patients).difference(self.train, self.validation, self.test)
        if missing:
            raise InputError(
                f"patient {min(missing)!r} of {dataset.name} is in no part of the split; "
                "make the split from the same data."
            )
        wanted = set(self.patients(part))
        return tuple(i for i, patient in enumerate(dataset.patients) if patient in wanted)


def patient_burdens(dataset: Dataset) -> dict[str, float]:
    """Each patient's share of voxels that are not background; reads every sample once."""
    positive: dict[str, int] = {}
    voxels: dict[str, int] = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        positive[sample.patient] = positive.get(sample.patient, 0) + int(
            sample.mask.count_nonzero()
        )
        voxels[sample.patient] = voxels.get(sample.patient, 0) + sample.mask.numel()
    return {patient: positive[patient] / voxels[patient] for patient in positive}


def hold_out(
    burdens: Mapping[str, float],
    *,
    seed: int,
    validation: float = 0.1,
    test: float = 0.1,
) -> Split:
    """Set a part of the patients aside to validate and a part to test.

    ``validation`` and ``test`` are shares of all patients if below 1 (rounded, at least one
    patient), numbers of patients otherwise.

    >>> split = hold_out({f"p{i:02d}": i for i in range(20)}, seed=0)
    >>> [len(split.patients(part)) for part in Part]
    [16, 2, 2]
    """
    rng = _generator(seed)
    ranked = _ranked(burdens, rng)
    tests = _count("test", test, len(ranked))
    validations = _count("validation", validation, len(ranked))
    if tests + validations >= len(ranked):
        raise InputError(
            f"{len(ranked)} patients are too few for {validations} to validate, {tests} to test "
            "and one to train on; give more patients or smaller parts."
        )
    tested = _spread(ranked, tests, rng)
    return _split(ranked, tested, validations, rng)


def k_folds(
    burdens: Mapping[str, float], *, seed: int, folds: int = 5, validation: float = 0.1
) -> tuple[Split, ...]:
    """``folds`` splits in which every patient is tested exactly once.

    ``validation`` is a share of all patients or a number of them, taken from those not tested.
    """
    if folds < 2:
        raise InputError(f"a cross-validation needs at least 2 folds, not {folds}.")
    rng = _generator(seed)
    ranked = _ranked(burdens, rng)
    validations = _count("validation", validation, len(ranked))
    largest = math.ceil(len(ranked) / folds)
    if len(ranked) < folds or largest + validations >= len(ranked):
        raise InputError(
            f"{len(ranked)} patients are too few for {folds} folds with {validations} to validate "
            "and one to train on; give more patients or fewer folds."
        )
    tested: list[list[str]] = [[] for _ in range(folds)]
    for start in range(0, len(ranked), folds):
        order = rng.permutation(folds)
        for patient, fold in zip(ranked[start : start + folds], order, strict=False):
            tested[fold].append(patient)
    return tuple(_split(ranked, part, validations, rng) for part in tested)


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise InputError(f"the split's seed is {seed}; give 0 or more.")
    return np.random.default_rng(seed)


def _ranked(burdens: Mapping[str, float], rng: np.random.Generator) -> list[str]:
    """Patients by burden, ties in random order, whatever order the mapping has."""
    for patient, burden in burdens.items():
        if not math.isfinite(burden):
            raise InputError(
                f"the lesion burden of patient {patient!r} is {burden}; give a number."
            )
    names = sorted(burdens)
    shuffled = [names[i] for i in rng.permutation(len(names))]
    return sorted(shuffled, key=lambda patient: burdens[patient])


def _count(part: str, size: float, patients: int) -> int:
    if not 0 < size < math.inf or (size >= 1 and size != int(size)):
        raise InputError(
            f"the {part} part is {size!r}; give a share between 0 and 1 or a number of patients."
        )
    return int(size) if size >= 1 else max(1, round(size * patients))


def _spread(ranked: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """One patient from each of ``count`` equal stretches of the ranking."""
    bounds = [len(ranked) * i // count for i in range(count + 1)]
    return [ranked[int(rng.integers(low, high))] for low, high in pairwise(bounds)]


def _split(
    ranked: Sequence[str], tested: Sequence[str], validations: int, rng: np.random.Generator
) -> Split:
    left = [patient for patient in ranked if patient not in set(tested)]
    validated = _spread(left, validations, rng)
    train = sorted(set(left).difference(validated))
    return Split(
        train=tuple(train), validation=tuple(sorted(validated)), test=tuple(sorted(tested))
    )
