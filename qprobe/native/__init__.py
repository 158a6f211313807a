"""The optional C kernels: found, checked and described here, called by :mod:`qprobe.quant`.

They are one plain shared library behind a C ABI, opened with :mod:`ctypes` and fed with addresses,
so neither Python's nor PyTorch's headers are needed to build it. Where it could not be built,
:data:`kernels` is ``None`` and the PyTorch path, which gives the same bits, does the work.
"""

import ctypes
from enum import IntEnum
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec
from typing import Final

from qprobe.errors import InputError

_ABI: Final = 1
_LIBRARY: Final = "qprobe.native._kernels"


class Element(IntEnum):
    """Element types that the kernels read and write."""

    FLOAT32 = 0
    BFLOAT16 = 1


class InstructionSet(IntEnum):
    """Variants of the kernels; the best one that the processor has is chosen at import."""

    PORTABLE = 0
    AVX2 = 1
    AVX512 = 2


_address = ctypes.c_void_p
_size = ctypes.c_int64
_SIGNATURES: Final = {
    "qprobe_block_absmax": [_address, ctypes.c_int, _size, _size, _size, _size, _address],
    "qprobe_group_max": [_address, _size, _size, _size, _size],
    "qprobe_nvfp4_scales": [_address, _size, _address, _address],
    "qprobe_e2m1_apply": [
        *(_address, ctypes.c_int, _address, ctypes.c_int, _address, _address, _address),
        *(_size, _size, _size, _size),
    ],
}


class Kernels:
    """The functions of the library; every pointer is an address of dense memory the caller owns.

    Tensors are seen as ``[outer, length, inner]`` with the quantized axis in the middle.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = None
        self._select = library.qprobe_select
        self.block_absmax = library.qprobe_block_absmax
        self.group_max = library.qprobe_group_max
        self.nvfp4_scales = library.qprobe_nvfp4_scales
        self.e2m1_apply = library.qprobe_e2m1_apply
        self.instruction_set = self.select(InstructionSet.AVX512)

    def select(self, limit: InstructionSet) -> InstructionSet:
        """Use the best instruction set of this processor that is not above ``limit``."""
        self.instruction_set = InstructionSet(self._select(int(limit)))
        return self.instruction_set


def _open() -> tuple[Kernels | None, str]:
    """The kernels, or ``None`` and the reason why there are none."""
    spec = find_spec(_LIBRARY)
    if spec is None or spec.origin is None or not isinstance(spec.loader, ExtensionFileLoader):
        return None, "not built: no working C compiler when qprobe was installed"
    try:
        library = ctypes.CDLL(spec.origin)
        abi = library.qprobe_abi()
    except (OSError, AttributeError) as error:
        return None, f"not usable: {error}"
    if abi != _ABI:
        return None, f"not usable: built for interface {abi}, this is {_ABI}; install qprobe again"
    return Kernels(library), ""


kernels, _reason = _open()


def describe() -> str:
    """One line for people: which kernels are in use, and why if they are not the fast ones."""
    if kernels is None:
        return f"PyTorch ({_reason})"
    return f"native C, {kernels.instruction_set.name.lower()}"


def require() -> Kernels:
    """The kernels, or an error that says why they are missing."""
    if kernels is None:
        raise InputError(f"the native kernels are {_reason}.")
    return kernels
