"""Sampled maps of attention: as they are, and what quantization changes in them."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qprobe.dashboard.layer_detail import literal
from qprobe.records import RunReader

PROBE: Final = "attention_maps"
#: What the two tensors are called, by role.
WORDS: Final = {"attn_logits": "logits", "attn_probs": "probabilities"}


@dataclass(frozen=True, kw_only=True, eq=False)
class MapPair:
    """One head of one sample, ``[queries, keys]``; a hidden entry of logits is −inf."""

    site: str
    role: str
    head: str
    step: int
    reference: NDArray[np.float32]
    quantized: NDArray[np.float32]


def places(reader: RunReader) -> list[tuple[str, str]]:
    """Site and role of every attention of which there are maps."""
    return [(column.site, column.role) for column in reader.columns(probe=PROBE, key="n")]


def latest(reader: RunReader, site: str, role: str) -> MapPair | None:
    """The last pair that was kept: a session keeps arrays of some of its looks only."""
    if (site, role) not in places(reader):
        return None
    for step in reader.series(site, role, PROBE, "n").steps[::-1].tolist():
        kept = {
            array.key: array.data.astype(np.float32)
            for array in reader.arrays(
                site=literal(site), role=role, probe=PROBE, steps=range(step, step + 1)
            )
        }
        for key in kept:
            head, _, name = key.partition(".")
            if name == "reference" and f"{head}.change" in kept:
                return MapPair(
                    site=site,
                    role=role,
                    head=head.replace("head", "head "),
                    step=step,
                    reference=kept[key],
                    quantized=kept[key] + kept[f"{head}.change"],
                )
    return None
