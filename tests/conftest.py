"""Fixtures that every test may use."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from qprobe import native
from qprobe.native import InstructionSet

torch.set_num_threads(1)
# A shell starts what runs in the background with Ctrl-C ignored, and children inherit that; those
# of the tests that interrupt them could not be.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A continuous integration judges a change, so it draws the same examples every time; elsewhere
# every run looks at new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

#: The implementations of one arithmetic: PyTorch, and the C kernels in each of their variants.
IMPLEMENTATIONS = ("pytorch", *(one.name.lower() for one in InstructionSet))


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Run the test once with each implementation that this machine has."""
    name = request.param
    if name == "pytorch":
        monkeypatch.setattr(native, "kernels", None)
        yield name
        return
    if native.kernels is None:
        pytest.skip(native.describe())
    wanted = InstructionSet[name.upper()]
    if native.kernels.select(wanted) is not wanted:
        native.kernels.select(InstructionSet.AVX512)
        pytest.skip(f"this processor has no {name}")
    yield name
    native.kernels.select(InstructionSet.AVX512)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator with a fixed seed."""
    return torch.Generator().manual_seed(20261121)
