"""The loader of Transformer Engine's reference, loaded by its path as other tests load it."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from qprobe.quant import NVFP4, QuantSpec, quantize

FILE = Path(__file__).parents[2] / "benchmarks" / "lone_import.py"


@pytest.fixture(scope="module")
def lone_import():
    spec = spec_from_file_location("lone_import", FILE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(folder: Path) -> Path:
    inner = folder / "outer" / "inner"
    inner.mkdir(parents=True)
    (folder / "outer" / "__init__.py").write_text("raise RuntimeError('ran outer')")
    (inner / "__init__.py").write_text("raise RuntimeError('ran inner')")
    (inner / "wanted.py").write_text(
        "from outer.heavy import base\nfrom outer.inner import beside\nvalue = base + beside.value"
    )
    (inner / "beside.py").write_text("value = 40")
    return folder / "outer"


def test_no_package_above_the_module_is_run(lone_import, tmp_path):
    wanted = lone_import.import_alone(
        "outer.inner.wanted", package(tmp_path), {"outer.heavy": {"base": 2}}
    )
    assert wanted.value == 42


def test_what_was_loaded_before_is_loaded_after(lone_import, tmp_path):
    before = dict(sys.modules)
    kept = sys.modules["outer"] = sys.modules["outer.heavy"] = type(sys)("outer")
    try:
        root = package(tmp_path)
        lone_import.import_alone("outer.inner.wanted", root, {"outer.heavy": {"base": 2}})
        assert {n: m for n, m in sys.modules.items() if n.startswith("outer")} == {
            "outer": kept,
            "outer.heavy": kept,
        }
        (root / "inner" / "wanted.py").write_text("raise ValueError('inside')")
        with pytest.raises(ValueError, match="inside"):
            lone_import.import_alone("outer.inner.wanted", root)
        assert sys.modules["outer"] is kept
    finally:
        del sys.modules["outer"], sys.modules["outer.heavy"]
    assert set(sys.modules) == set(before)


def test_the_reference_of_transformer_engine_gives_our_codes(lone_import):
    reference, version = lone_import.te_reference()
    assert version.count(".") >= 1
    assert not [name for name in sys.modules if name.startswith("transformer_engine")]

    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(3)).bfloat16()
    theirs = reference.NVFP4QuantizerRef(dtype=reference.reference_utils.Fp4Formats.E2M1).quantize(
        x
    )
    ours = quantize(x, QuantSpec(format=NVFP4))
    low, high = theirs.data & 15, theirs.data >> 4
    assert torch.equal(torch.stack([low, high], -1).view(64, 128) % 8, ours.codes % 8)
    assert torch.equal(theirs.scale.float(), ours.scale)
    assert torch.equal(theirs.global_amax_row, ours.amax.view(1))
