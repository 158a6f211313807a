"""Memory that an analysis frees and fills again at once, and objects that outlive it."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Just below the largest block (32 MiB) from whose release glibc learns, and what it keeps then.
LEARNT = 31 * 2**20


def keep_freed_memory() -> None:
    """Let glibc keep up to 62 MiB of freed memory instead of handing it back.

    A block that is mapped and freed raises the size from which blocks are mapped to its own and the
    free memory that is kept to twice that (``mallopt``, ``M_TRIM_THRESHOLD``). A model that is run
    again and again otherwise returns its larger activations to the system in every pass and gets
    them back page by page. The block is never touched; other allocators do not care.
    """
    if sys.platform == "linux":
        torch.empty(LEARNT, dtype=torch.uint8)


@contextmanager
def long_lived() -> Iterator[None]:
    """Spare the objects that are there now the garbage collector's visits.

    Imported libraries are some 300,000 of them; looking at all takes 0.1 to 0.2 s, as long as a
    small model's evaluation, whenever enough new objects have come along. Who has spared objects of
    their own keeps them: then nothing is changed.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
