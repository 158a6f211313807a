"""Many states at once give what each gives alone."""

import pytest
import torch

from qprobe.probes.base import SiteView
from qprobe.probes.batched import Batched, scalars_of
from qprobe.probes.four_bit import FourBit
from qprobe.probes.histogram import Histogram
from qprobe.probes.moments import Moments
from qprobe.probes.summary import Summary
from qprobe.records.schema import Role
from qprobe.sites import Site


def summaries(generator):
    """Of two widths; one of nothing, one of zeros, one constant, one with NaN."""
    made = []
    for number, (tokens, channels) in enumerate([(70, 32), (90, 48), (0, 32), (40, 32), (5, 48)]):
        x = torch.randn(tokens, channels, generator=generator) * 10.0**number
        x = {3: torch.zeros_like(x), 4: torch.ones_like(x)}.get(number, x)
        if number == 1:
            x[3, 4], x[5, 6] = torch.nan, torch.inf
        made.append(Summary(channels))
        made[-1].observe(x)
    return made


@pytest.mark.parametrize("probe", [Moments(), Histogram(), FourBit()], ids=lambda one: one.name)
def test_many_states_give_what_each_gives_alone(probe, generator):
    site = Site("fc", Role.INPUT, "linear")
    states = [
        probe.observe(SiteView(site=site, module=None, summary=one)) for one in summaries(generator)
    ]
    together = scalars_of(states)
    for state, found in zip(states, together, strict=True):
        alone = {key: float(value) for key, value in state.scalars().items()}
        assert found == pytest.approx(alone, rel=1e-13)
        assert all(type(value) is float for value in found.values())
    assert len({frozenset(one) for one in together}) > 1  # what is missing has no key


def test_no_states_have_no_scalars():
    assert scalars_of([]) == []


def test_a_state_without_values_cannot_be_made():
    class Bare(Batched):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?values'?"):
        Bare()
