"""Memory that an analysis frees stays with the process, because it asks for it again at once."""

import sys

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
