"""qprobe/engine/__init__.py: comparing runs must not need what trains them."""

import subprocess
import sys

import pytest

from qprobe import engine
from qprobe.engine import loop, training


@pytest.mark.parametrize(
    ("code", "torch"),
    [
        ("import qprobe.engine.sweep, qprobe.engine.compare", False),
        ("from qprobe.engine import TrainConfig", False),
        ("from qprobe.engine import train", True),
    ],
)
def test_torch_is_imported_by_what_trains_only(code: str, torch: bool):
    report = f"{code}; import sys; print('torch' in sys.modules)"
    seen = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == str(torch)


def test_public_names_are_those_of_their_modules():
    assert engine.train is loop.train
    assert engine.Callback is training.Callback
    assert all(getattr(engine, name) for name in engine.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'qprobe.engine' has no attribute 'trian'"):
        _ = engine.trian
