"""The noise of every layer's output under several ways to quantize it, and whether it shows.

A layer is asked about itself: what would be gone if it were quantized another way? Only how much of
that is worth mentioning comes from the other layers, for a model has no other measure of noise.
"""

from collections.abc import Mapping
from statistics import median

from qprobe.probes.output_error import INTENDED

#: A defect does harm where without it the layer's output would lose as much noise as the median
#: other layer has: transformers have tokens and channels far above the rest, and live with them.
#: Healthy models come to 0.54.
NOISY = 1.0
#: Or where this share of what quantization does to the loss, of all layers, would be gone. Healthy
#: models come to 0.02.
FELT = 0.05


class NoiseByLayer:
    """What quantization does to every layer's output, and through it to the loss, by way."""

    def __init__(self, values: Mapping[str, Mapping[str, float]]) -> None:
        self.sites = tuple(values)
        self._shares = {site: _of_ways(of, ".noise_share") for site, of in values.items()}
        self._felt = {site: _of_ways(of, ".loss_scatter") for site, of in values.items()}

    def shares(self, site: str) -> Mapping[str, float]:
        """Noise over the output's energy, of each way to quantize the layer."""
        return self._shares[site]

    def gone(self, site: str, way: str) -> float | None:
        """The share of what the loss feels of the layer that would be gone; None: not measured."""
        felt = self._felt[site]
        if not {INTENDED, way} <= felt.keys() or not felt[INTENDED]:
            return None
        return 1.0 - felt[way] / felt[INTENDED]

    def shows(self, site: str, way: str) -> bool:
        """Whether it would show in the model if the layer were quantized as ``way`` says.

        In the noise of its output, beside what the median other layer has; or in what the loss
        feels of it (the mean of ½⟨g, Δy⟩²), beside what it feels of all layers together. What was
        not measured does not show.
        """
        others = [of.get(INTENDED) for path, of in self._shares.items() if path != site]
        usual = median([one for one in others if one is not None] or [0.0])
        every = sum(of.get(INTENDED, 0.0) for of in self._felt.values())
        return _gone(self._shares[site], way, NOISY * usual) or _gone(
            self._felt[site], way, FELT * every
        )


def _gone(values: Mapping[str, float], way: str, least: float) -> bool:
    if INTENDED not in values or way not in values:
        return False
    gone = values[INTENDED] - values[way]
    return gone > 0.0 and gone >= least


def _of_ways(values: Mapping[str, float], ending: str) -> dict[str, float]:
    return {k.removesuffix(ending): v for k, v in values.items() if k.endswith(ending)}
