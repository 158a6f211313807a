import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qprobe.engine.data.dataset import Sample
from qprobe.engine.data.split import Part, Split, hold_out, k_folds, patient_burdens
from qprobe.errors import InputError

# Repeated burdens on purpose: half of the patients of a real set may have none.
burdens = st.dictionaries(
    st.text("abcdef0123", min_size=1, max_size=5),
    st.one_of(st.just(0.0), st.floats(0, 1)),
    min_size=12,
    max_size=60,
)
seeds = st.integers(0, 2**32)


class Marked:
    """One row of pixels per sample, the first ``positive`` of ten of them marked."""

    name = "marked"
    channels = 1
    classes = 2

    def __init__(self, samples: Sequence[tuple[str, int]]) -> None:
        self._samples = samples
        self.patients = [patient for patient, _ in samples]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        patient, positive = self._samples[index]
        mask = (torch.arange(10) < positive).to(torch.uint8)[None]
        return Sample(image=torch.zeros(1, 1, 10), mask=mask, patient=patient, sample=str(index))


def everyone(split: Split) -> list[str]:
    return [patient for part in Part for patient in split.patients(part)]


def prefix_error(part: Sequence[str], sizes: dict[str, float], share: float) -> float:
    """How far a part is from holding ``share`` of the m least burdened patients, at the worst m.

    Ties may be ranked either way, so only prefixes that end between two different burdens count.
    """
    ranked = sorted(sizes.values())
    worst = 0.0
    for m in range(1, len(ranked)):
        if ranked[m - 1] < ranked[m]:
            held = sum(sizes[patient] <= ranked[m - 1] for patient in part)
            worst = max(worst, abs(held - share * m))
    return worst


@given(burdens, seeds)
def test_a_hold_out_puts_every_patient_in_exactly_one_part(sizes, seed):
    split = hold_out(sizes, seed=seed)
    assert sorted(everyone(split)) == sorted(sizes)
    assert len(split.test) == len(split.validation) == max(1, round(len(sizes) / 10))


@given(burdens, seeds, st.integers(2, 6))
def test_over_the_folds_every_patient_is_tested_exactly_once(sizes, seed, folds):
    splits = k_folds(sizes, seed=seed, folds=folds)
    assert sorted(p for split in splits for p in split.test) == sorted(sizes)
    for split in splits:
        assert sorted(everyone(split)) == sorted(sizes)
        assert len(split.test) in (len(sizes) // folds, math.ceil(len(sizes) / folds))


@given(burdens, seeds)
@settings(max_examples=60)
def test_parts_have_their_share_of_every_burden(sizes, seed):
    tested = hold_out(sizes, seed=seed, test=5).test
    assert prefix_error(tested, sizes, 5 / len(sizes)) <= 1 + 1e-9
    for split in k_folds(sizes, seed=seed, folds=4):
        assert prefix_error(split.test, sizes, 1 / 4) < 1


@given(burdens, seeds)
@settings(max_examples=30)
def test_a_split_depends_on_the_seed_and_not_on_the_order_of_the_patients(sizes, seed):
    backwards = dict(reversed(sizes.items()))
    assert hold_out(sizes, seed=seed) == hold_out(backwards, seed=seed)
    assert k_folds(sizes, seed=seed) == k_folds(backwards, seed=seed)


def test_another_seed_gives_another_split():
    sizes = {f"p{i}": float(i) for i in range(40)}
    assert len({hold_out(sizes, seed=seed) for seed in range(10)}) == 10


def test_numbers_of_patients_are_taken_as_they_are():
    split = hold_out({f"p{i}": 0.0 for i in range(112)}, seed=0, validation=16, test=16)
    assert [len(split.patients(part)) for part in Part] == [80, 16, 16]


def test_indices_of_the_parts_cover_the_samples_and_no_patient_crosses():
    data = Marked([(f"p{i % 15}", i % 4) for i in range(60)])
    split = hold_out(patient_burdens(data), seed=3)
    parts = [split.indices(data, part) for part in Part]
    assert sorted(i for part in parts for i in part) == list(range(60))
    owners = [{data.patients[i] for i in part} for part in parts]
    assert sum(map(len, owners)) == len(set.union(*owners))


def test_a_patients_burden_is_its_share_of_marked_pixels():
    data = Marked([("a", 1), ("b", 0), ("a", 4)])
    assert patient_burdens(data) == {"a": 0.25, "b": 0.0}


def test_a_patient_in_two_parts_is_refused_by_name():
    with pytest.raises(InputError, match="'b' is in a split twice"):
        Split(train=("a", "b"), validation=("b",), test=("c",))


def test_a_patient_the_split_does_not_know_is_refused_by_name():
    split = Split(train=("a",), validation=("b",), test=("c",))
    with pytest.raises(InputError, match="'d' of marked is in no part"):
        split.indices(Marked([("a", 0), ("d", 0)]), Part.TRAIN)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hold_out({"a": 0, "b": 0}, seed=0), "2 patients are too few for 1 to validate"),
        (lambda: hold_out({"a": 0, "b": 0, "c": 0}, seed=0, test=2), "3 patients are too few"),
        (lambda: k_folds({"a": 0, "b": 0, "c": 0}, seed=0), "3 patients are too few for 5 folds"),
        (lambda: k_folds({"a": 0, "b": 0}, seed=0, folds=2), "2 patients are too few for 2 folds"),
        (lambda: k_folds({"a": 0, "b": 0}, seed=0, folds=1), "at least 2 folds, not 1"),
        (lambda: hold_out({"a": math.nan}, seed=0), "burden of patient 'a' is nan"),
        (lambda: hold_out({"a": 0}, seed=-1), "seed is -1"),
        (lambda: hold_out({"a": 0}, seed=0, test=0), "test part is 0"),
        (lambda: hold_out({"a": 0}, seed=0, test=1.5), "test part is 1.5"),
        (lambda: hold_out({"a": 0}, seed=0, validation=math.nan), "validation part is nan"),
        (lambda: hold_out({"a": 0}, seed=0, validation=math.inf), "validation part is inf"),
    ],
)
def test_what_cannot_be_split_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
