import threading
import time
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qprobe.engine.data.augment import AugmentConfig
from qprobe.engine.data.dataset import Sample
from qprobe.engine.data.loader import Batch, Loader, LoaderConfig, ahead
from qprobe.engine.data.normalise import Normalisation
from qprobe.errors import InputError

NONE = Normalisation.NONE


class Numbered:
    """Sample i is an image full of i with some texture, and remembers that it was read."""

    name = "numbered"
    channels = 1

    def __init__(
        self, count: int, classes: int = 2, labels: int | None = None, broken: int | None = None
    ) -> None:
        self.classes = classes
        self._labels = labels or classes
        self.patients = [f"p{i // 2}" for i in range(count)]
        self.read: list[int] = []
        self._broken = broken

    def __len__(self) -> int:
        return len(self.patients)

    def __getitem__(self, index: int) -> Sample:
        if index == self._broken:
            raise InputError(f"sample {index} is broken.")
        self.read.append(index)
        image = index + torch.linspace(0, 1, 64).view(1, 8, 8)
        mask = torch.full((8, 8), index % self._labels, dtype=torch.uint8)
        return Sample(image=image, mask=mask, patient=self.patients[index], sample=str(index))


def loader(count: int = 10, /, **options: object) -> Loader:
    return Loader(Numbered(count), None, LoaderConfig(**{"batch": 4, **options}))


def numbers(batches: Iterator[Batch] | Loader) -> list[list[int]]:
    return [[int(name) for name in batch.samples] for batch in batches]


def same(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.image, second.image)
        and torch.equal(first.mask, second.mask)
        and (first.samples, first.patients) == (second.samples, second.patients)
    )


def test_batches_in_order_and_a_last_one_that_is_not_full():
    assert numbers(loader()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(loader()) == 3


def test_drop_last_leaves_out_a_batch_that_is_not_full():
    assert numbers(loader(drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(loader(8, drop_last=True)) == 2


def test_a_batch_by_hand():
    batch = next(iter(loader(normalisation=NONE)))
    assert batch.image.shape == (4, 1, 8, 8)
    assert batch.image[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert batch.mask.shape == (4, 1, 8, 8)
    assert batch.mask.dtype == torch.float32
    assert batch.mask[:, 0, 0, 0].tolist() == [0, 1, 0, 1]
    assert batch.patients == ("p0", "p0", "p1", "p1")
    assert len(batch) == 4


def test_several_classes_come_as_class_numbers():
    batch = next(iter(Loader(Numbered(6, classes=3), None, LoaderConfig(batch=6))))
    assert batch.mask.dtype == torch.int64
    assert batch.mask[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 2**33), st.integers(0, 5))
@settings(max_examples=50)
def test_every_epoch_has_every_sample_once_in_an_order_of_seed_and_epoch(n, batch, seed, epoch):
    config = LoaderConfig(batch=batch, seed=seed, shuffle=True)
    first, second = Loader(Numbered(n), None, config), Loader(Numbered(n), None, config)
    first.restart(epoch)
    for _ in range(epoch):
        list(second)
    seen = numbers(first)
    assert numbers(second) == seen
    assert sorted(i for part in seen for i in part) == list(range(n))


def test_epochs_and_seeds_have_different_orders():
    orders = {
        loader(40, shuffle=True, seed=seed).order(epoch) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


def test_only_the_chosen_samples_are_loaded():
    data = Numbered(10)
    assert numbers(Loader(data, (7, 2, 5), LoaderConfig(batch=2))) == [[7, 2], [5]]
    assert sorted(data.read) == [2, 5, 7]


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("stop", range(1, 10))
def test_resuming_anywhere_gives_the_same_batches_to_the_bit(prefetch, stop):
    options = {"shuffle": True, "augment": AugmentConfig(), "prefetch": prefetch, "seed": 3}
    whole = [batch for run in [loader(**options)] for _ in range(3) for batch in run]
    first = loader(**options)
    taken: list[Batch] = []
    while len(taken) < stop:
        for batch in first:
            taken.append(batch)
            if len(taken) == stop:
                break
    state = first.state_dict()
    second = loader(**options)
    second.load_state_dict(state)
    rest = [batch for _ in range(3 - state["epoch"]) for batch in second]
    assert len(taken) + len(rest) == len(whole) == 9
    assert all(map(same, taken + rest, whole))


def test_a_loop_left_after_the_last_batch_closes_its_epoch_first():
    """State (epoch 0, all batches done): the epoch's loop runs dry, the next one is epoch 1."""
    run = loader()
    for number, _ in enumerate(run, start=1):
        if number == len(run):
            break
    resumed = loader()
    resumed.load_state_dict(run.state_dict())
    assert resumed.epoch == 0
    assert numbers(resumed) == []
    assert resumed.epoch == 1
    assert len(numbers(resumed)) == 3


def test_prefetching_gives_the_same_batches():
    options = {"shuffle": True, "augment": AugmentConfig(), "seed": 9}
    plain, threaded = loader(33, **options), loader(33, **options, prefetch=2)
    for _ in range(2):
        assert all(same(a, b) for a, b in zip(plain, threaded, strict=True))


def test_a_samples_change_does_not_depend_on_its_batch():
    config = AugmentConfig()
    small = loader(12, batch=1, augment=config)
    large = loader(12, batch=12, augment=config)
    whole = next(iter(large))
    for index, batch in enumerate(small):
        assert torch.equal(batch.image[0], whole.image[index])
        assert torch.equal(batch.mask[0], whole.mask[index])


def test_a_sample_changes_differently_in_every_epoch():
    run = loader(1, batch=1, augment=AugmentConfig(flip=0, move=1), normalisation=NONE)
    images = [next(iter(run)).image for epoch in range(5) if not run.restart(epoch)]
    assert len({image.sum().item() for image in images}) == 5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_image_that_is_not_finite_is_refused_by_name(bad):
    class Holed(Numbered):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            if index == 2:
                sample.image[0, 3, 4] = bad
            return sample

    with pytest.raises(InputError, match=r"sample '2' of numbered holds NaN or infinity"):
        list(Loader(Holed(4), None, LoaderConfig(batch=4)))


def test_an_error_of_the_data_comes_where_its_batch_would():
    run = Loader(Numbered(10, broken=5), None, LoaderConfig(batch=2, prefetch=4))
    batches = iter(run)
    assert [next(batches).samples for _ in range(2)] == [("0", "1"), ("2", "3")]
    with pytest.raises(InputError, match="sample 5 is broken"):
        next(batches)


def test_the_thread_is_gone_when_the_loop_ends_or_is_left():
    for leave in (False, True):
        for _ in loader(prefetch=2):
            if leave:
                break
    deadline = time.monotonic() + 5
    while any(t.name.startswith("qprobe-data") for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ahead_makes_no_more_than_its_depth():
    made = []
    source = (made.append(i) or i for i in range(100))
    items = ahead(source, 3)
    assert next(items) == 0
    time.sleep(0.05)
    assert len(made) <= 4
    assert [next(items) for _ in range(5)] == [1, 2, 3, 4, 5]
    items.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 11}, "samples 11 and this run has 10"),
        ({"seed": 1}, "seed 1 and this run has 0"),
        ({"batch_size": 8}, "batch_size 8 and this run has 4"),
        ({"batch": 4}, "outside an epoch of 3 batches"),
        ({"epoch": -1}, "epoch -1"),
    ],
)
def test_the_position_of_another_run_is_refused(change, message):
    run = loader()
    with pytest.raises(InputError, match=message):
        run.load_state_dict({**run.state_dict(), **change})


def test_nothing_to_load_is_refused():
    with pytest.raises(InputError, match="no samples of numbered"):
        Loader(Numbered(3), (), LoaderConfig())
    with pytest.raises(InputError, match="3 samples of numbered do not fill one batch of 4"):
        loader(3, drop_last=True)


@pytest.mark.parametrize("options", [{"batch": 0}, {"prefetch": -1}, {"seed": -1}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(InputError, match=r"-1|0"):
        LoaderConfig(**options)


def test_samples_of_different_shapes_are_refused_by_name():
    class Ragged(Numbered):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            if index < 2:
                return sample
            small = {"image": sample.image[:, :4], "mask": sample.mask[:4]}
            return Sample(**small, patient=sample.patient, sample=sample.sample)

    with pytest.raises(InputError, match=r"'2' of numbered has the shape .1, 4, 8. and '0' has"):
        next(iter(Loader(Ragged(4), None, LoaderConfig(batch=4))))


def test_a_class_beyond_the_data_is_refused_by_name():
    data = Numbered(4, labels=3)
    with pytest.raises(InputError, match="mask of sample '2' of numbered holds class 2"):
        next(iter(Loader(data, None, LoaderConfig(batch=4))))
