"""Import one module of a package without running what stands above it.

Transformer Engine's Python reference for NVFP4 is plain PyTorch, but importing it the usual way
runs package files that load CUDA libraries. Here the parents are empty stand-ins that only say
where their files lie, and they are gone again once the module is loaded. Nothing is copied and
nothing that the reference computes with is replaced.

Tests load this file by its path, so it imports nothing beside the standard library.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

_REFERENCE = "transformer_engine.pytorch.custom_recipes.reference_nvfp4"


def import_alone(
    name: str, root: Path, stand_ins: Mapping[str, Mapping[str, object]] | None = None
) -> ModuleType:
    """The module ``name``, whose outermost package is the folder ``root``.

    ``stand_ins`` are modules to see instead of the package's own, by full name, with what they
    hold. ``sys.modules`` is left as it was found.
    """
    package, *inner, _ = name.split(".")
    folders = {package: root}
    for part in inner:
        package = f"{package}.{part}"
        root = root / part
        folders[package] = root
    replaced = {parent: _module(parent, {"__path__": [str(at)]}) for parent, at in folders.items()}
    replaced |= {full: _module(full, held) for full, held in (stand_ins or {}).items()}
    with _instead_of(name.split(".")[0], replaced):
        return import_module(name)


def te_reference() -> tuple[ModuleType, str]:
    """Transformer Engine's NVFP4 reference, and the version it comes from.

    Of the modules it imports, two lead to the CUDA extension: the base classes of quantizers and
    quantized tensors, of which only the constructor is used, and a type check that is not.
    """
    spec = find_spec("transformer_engine")
    if spec is None or spec.origin is None:
        raise ImportError("transformer-engine is not installed")
    stand_ins: dict[str, dict[str, object]] = {
        "transformer_engine.pytorch.quantized_tensor": {
            "QuantizedTensorStorage": type("QuantizedTensorStorage", (), {}),
            "Quantizer": type("Quantizer", (), {"__init__": _quantizer_init}),
        },
        "transformer_engine.pytorch.tensor": {},
        "transformer_engine.pytorch.tensor.utils": {"is_custom": lambda _: True},
    }
    reference = import_alone(_REFERENCE, Path(spec.origin).parent, stand_ins)
    return reference, version("transformer-engine")


def _quantizer_init(self: object, *, rowwise: bool, columnwise: bool) -> None:
    vars(self).update(rowwise_usage=rowwise, columnwise_usage=columnwise)


def _module(name: str, held: Mapping[str, object]) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(held)
    return module


@contextmanager
def _instead_of(package: str, modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """``modules`` in place of all that is loaded of ``package``; afterwards what was there."""

    def loaded() -> dict[str, ModuleType]:
        return {
            name: module
            for name, module in sys.modules.items()
            if name == package or name.startswith(f"{package}.")
        }

    before = loaded()
    for name in before:
        del sys.modules[name]
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in loaded():
            del sys.modules[name]
        sys.modules.update(before)
