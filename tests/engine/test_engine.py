"""qprobe/engine/__init__.py: comparing runs must not need what trains them."""

import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

from qprobe import engine


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


def test_public_names_are_those_of_their_modules_and_no_module_has_such_a_name():
    assert {*engine._TRAINS} < {*engine.__all__}
    for name, module in engine._TRAINS.items():
        assert getattr(engine, name) is getattr(import_module(f"qprobe.engine.{module}"), name)
    assert not {*engine.__all__} & {one.name for one in pkgutil.iter_modules(engine.__path__)}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'qprobe.engine' has no attribute 'trian'"):
        _ = engine.trian
