"""Batches in an order that depends on the seed and the epoch only, from any position on."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from qprobe.engine.data import augment
from qprobe.engine.data.augment import AugmentConfig
from qprobe.engine.data.dataset import Dataset, Sample
from qprobe.engine.data.normalise import Normalisation, default_for, normalise
from qprobe.errors import InputError

T = TypeVar("T")

# What a stream of random numbers is for, so that no two purposes share one.
_ORDER, _CHANGE = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples side by side.

    ``image`` is float32 ``[B, C, ...]``. ``mask`` is float32 ``[B, 1, ...]`` of zeros and ones
    where the data have two classes, int64 class numbers ``[B, ...]`` where they have more.
    """

    image: Tensor
    mask: Tensor
    patients: tuple[str, ...]
    samples: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """How samples become batches.

    ``shuffle`` draws a new order each epoch. ``drop_last`` leaves out a last batch that is not
    full, as training wants and evaluation must not. ``prefetch`` batches are made ahead by a
    thread; they are the same batches. ``normalisation`` is chosen by the data unless given.
    """

    batch: int = 32
    seed: int = 0
    shuffle: bool = False
    drop_last: bool = False
    prefetch: int = 0
    augment: AugmentConfig | None = None
    normalisation: Normalisation | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"a batch of {self.batch} samples is not possible; give 1 or more.")
        if self.prefetch < 0:
            raise InputError(
                f"prefetching {self.prefetch} batches is not possible; give 0 or more."
            )
        if self.seed < 0:
            raise InputError(f"the loader's seed is {self.seed}; give 0 or more.")


class Loader:
    """Iterates over the batches of one epoch; the next ``for`` goes on with the next epoch.

    A loop that was left early is taken up where it was left; :meth:`restart` goes back to the start
    of an epoch. The position counts batches that were handed out, never those made ahead.
    """

    def __init__(
        self, dataset: Dataset, indices: Sequence[int] | None, config: LoaderConfig
    ) -> None:
        self.dataset = dataset
        self.config = config
        self._indices = tuple(range(len(dataset)) if indices is None else indices)
        self._epoch = 0
        self._batch = 0
        if not self._indices:
            raise InputError(f"there are no samples of {dataset.name} to load; check the split.")
        if not len(self):
            raise InputError(
                f"{len(self._indices)} samples of {dataset.name} do not fill one batch of "
                f"{config.batch}; give a smaller batch or drop_last=False."
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(len(self._indices), self.config.batch)
        return whole + (1 if rest and not self.config.drop_last else 0)

    @property
    def epoch(self) -> int:
        """The epoch that is under way or comes next."""
        return self._epoch

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._epoch
        order = self.order(epoch)
        made = (self._make(order, number, epoch) for number in range(self._batch, len(self)))
        for batch in ahead(made, self.config.prefetch) if self.config.prefetch else made:
            self._batch += 1
            yield batch
        self.restart(epoch + 1)

    def order(self, epoch: int) -> tuple[int, ...]:
        """The numbers of the samples in the order of this epoch."""
        if not self.config.shuffle:
            return self._indices
        generator = _generator(_ORDER, self.config.seed, epoch)
        places = torch.randperm(len(self._indices), generator=generator).tolist()
        return tuple(self._indices[place] for place in places)

    def restart(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self._epoch, self._batch = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """The position, and what it is a position in."""
        return {"epoch": self._epoch, "batch": self._batch, **self._identity()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take up the position of a loader over as many samples with the same seed and batch."""
        for name, mine in self._identity().items():
            if name not in state or state[name] != mine:
                theirs = state.get(name, "absent")
                raise InputError(
                    f"the saved data position has {name} {theirs} and this run has {mine}; "
                    "resume with the data and settings the run was started with."
                )
        if not (state["epoch"] >= 0 and 0 <= state["batch"] <= len(self)):
            raise InputError(
                f"the saved data position (epoch {state['epoch']}, batch {state['batch']}) is "
                f"outside an epoch of {len(self)} batches; the checkpoint is damaged."
            )
        self._epoch, self._batch = state["epoch"], state["batch"]

    def _identity(self) -> dict[str, int]:
        config = self.config
        return {
            "samples": len(self._indices),
            "seed": config.seed,
            "batch_size": config.batch,
            "shuffle": int(config.shuffle),
            "drop_last": int(config.drop_last),
        }

    def _make(self, order: Sequence[int], number: int, epoch: int) -> Batch:
        start = number * self.config.batch
        chosen = order[start : start + self.config.batch]
        samples = [self.dataset[index] for index in chosen]
        images, masks = _stack(samples, self.dataset)
        config = self.config.augment
        if config is not None:
            changes = [
                augment.draw(config, _generator(_CHANGE, self.config.seed, epoch, index))
                for index in chosen
            ]
            images, masks = augment.apply(images, masks, changes)
        how = self.config.normalisation or default_for(images.shape[1], images.dim() - 2)
        binary = self.dataset.classes == 2
        return Batch(
            image=normalise(images, how),
            mask=masks[:, None].float() if binary else masks.long(),
            patients=tuple(sample.patient for sample in samples),
            samples=tuple(sample.sample for sample in samples),
        )


def ahead(source: Iterator[T], depth: int) -> Iterator[T]:
    """The items of ``source``, up to ``depth`` of them made ahead by one thread, in order.

    An exception of the source is raised where its item would have come. The thread is gone when the
    iterator is exhausted or closed.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="qprobe-data") as pool:
        waiting: deque[Future[list[T]]] = deque()
        try:
            while True:
                while len(waiting) <= depth:
                    # A list of one or none: StopIteration cannot travel through a future.
                    waiting.append(pool.submit(lambda: list(islice(source, 1))))
                item = waiting.popleft().result()
                if not item:
                    return
                yield item[0]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _generator(*key: int) -> torch.Generator:
    """A generator whose stream depends on all of ``key``."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint32)[0]
    return torch.Generator().manual_seed(int(seed))


def _stack(samples: Sequence[Sample], dataset: Dataset) -> tuple[Tensor, Tensor]:
    first = samples[0]
    for sample in samples:
        if sample.image.shape != first.image.shape:
            raise InputError(
                f"sample {sample.sample!r} of {dataset.name} has the shape "
                f"{tuple(sample.image.shape)} and {first.sample!r} has {tuple(first.image.shape)}; "
                "give the data an 'image' size so that all are resized to it."
            )
    masks = torch.stack([sample.mask for sample in samples])
    if int(masks.max()) >= dataset.classes:
        wrong = next(s.sample for s in samples if int(s.mask.max()) >= dataset.classes)
        raise InputError(
            f"the mask of sample {wrong!r} of {dataset.name} holds class {int(masks.max())} and "
            f"the data have {dataset.classes} classes; number them from 0."
        )
    images = torch.stack([sample.image for sample in samples])
    finite = images.flatten(1).isfinite().all(1).tolist()
    if not all(finite):
        wrong = samples[finite.index(False)].sample
        raise InputError(
            f"the image of sample {wrong!r} of {dataset.name} holds NaN or infinity; "
            "mend it or remove it."
        )
    return images, masks
