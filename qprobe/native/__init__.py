"""The optional C kernels: found, checked and described here.

They are one plain shared library behind a C ABI, opened with :mod:`ctypes` and fed with addresses,
so neither Python's nor PyTorch's headers are needed to build it. Where it could not be built,
:data:`kernels` is ``None`` and PyTorch does the work: quantization (:mod:`qprobe.quant`) with the
same bits, summaries (:mod:`qprobe.probes.summary`) and attention (:mod:`qprobe.stats.attention`,
:mod:`qprobe.probes.attended_native`) with the same counts and, but for the rounding of their sums,
the same numbers. Linear layers in evaluation (:mod:`qprobe.quant.linear_native`) have one as well
where the processor multiplies bfloat16.
"""

import ctypes
from enum import IntEnum
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec
from typing import Final

from qprobe.errors import InputError
from qprobe.native.arguments import (
    Attending,
    AttentionLook,
    AttentionRows,
    Binned,
    Element,
    How,
    Layer,
    Linear,
    Logits,
    Observation,
    Projecting,
    Rows,
    Sampled,
    Sharing,
    Tokens,
    Vectors,
)

__all__ = [
    "Attending",
    "AttentionLook",
    "AttentionRows",
    "Binned",
    "Element",
    "How",
    "InstructionSet",
    "Kernels",
    "Layer",
    "Linear",
    "Logits",
    "Observation",
    "Projecting",
    "Rows",
    "Sampled",
    "Sharing",
    "Tokens",
    "Vectors",
    "describe",
    "kernels",
    "require",
]

_ABI: Final = 7
_LIBRARY: Final = "qprobe.native._kernels"
_address = ctypes.c_void_p
_size = ctypes.c_int64


class InstructionSet(IntEnum):
    """Variants of the kernels; the best one that the processor has is chosen at import."""

    PORTABLE = 0
    AVX2 = 1
    AVX512 = 2


_SIGNATURES: Final = {
    "qprobe_attend": [ctypes.POINTER(Attending)],
    "qprobe_average_precision": [ctypes.POINTER(Binned)],
    "qprobe_bin_logits": [ctypes.POINTER(Logits)],
    "qprobe_block_absmax": [_address, ctypes.c_int, _size, _size, _size, _size, _address],
    "qprobe_group_max": [_address, _size, _size, _size, _size],
    "qprobe_nvfp4_scales": [_address, _size, _address, _address],
    "qprobe_e2m1_apply": [
        *(_address, ctypes.c_int, _address, ctypes.c_int, _address, _address, _address),
        *(_size, _size, _size, _size),
    ],
    "qprobe_integer_apply": [
        *(_address, _address, _size, _size, _size),
        *(ctypes.c_int, ctypes.c_float, _address),
    ],
    "qprobe_linear": [ctypes.POINTER(Linear)],
    "qprobe_summarise": [ctypes.POINTER(Observation)],
}
_OF_ROWS: Final = ("logit_error", "softmax_change")


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
        self.attend = library.qprobe_attend
        self._attend_scratch = library.qprobe_attend_scratch
        self._attend_scratch.argtypes, self._attend_scratch.restype = [_size, _size], _size
        self._attend_usable = library.qprobe_attend_usable
        self.average_precision = library.qprobe_average_precision
        self.bin_logits = library.qprobe_bin_logits
        self.block_absmax = library.qprobe_block_absmax
        self.group_max = library.qprobe_group_max
        self.nvfp4_scales = library.qprobe_nvfp4_scales
        self.e2m1_apply = library.qprobe_e2m1_apply
        self.integer_apply = library.qprobe_integer_apply
        self._integer_scratch = library.qprobe_integer_scratch
        self._integer_scratch.argtypes = [_size, _size, ctypes.c_int]
        self._integer_scratch.restype = _size
        self.linear = library.qprobe_linear
        self._linear_scratch = library.qprobe_linear_scratch
        self._linear_scratch.argtypes, self._linear_scratch.restype = [_size], _size
        self._linear_usable = library.qprobe_linear_usable
        self.summarise = library.qprobe_summarise
        self._scratch = library.qprobe_summary_scratch
        self._scratch.argtypes = [_size, _size]
        self._scratch.restype = _size
        self._rows = {name: getattr(library, f"qprobe_{name}") for name in _OF_ROWS}
        for function in self._rows.values():
            function.argtypes, function.restype = [ctypes.POINTER(AttentionRows)], ctypes.c_int
        self._look = library.qprobe_attention_look
        self._look.argtypes, self._look.restype = [ctypes.POINTER(AttentionLook)], ctypes.c_int
        self._look_scratch = library.qprobe_attention_look_scratch
        self._look_scratch.argtypes = [ctypes.POINTER(AttentionLook)]
        self._look_scratch.restype = _size
        self._attention_scratch = library.qprobe_attention_scratch
        self._attention_scratch.argtypes, self._attention_scratch.restype = [_size], _size
        self.instruction_set = self.select(InstructionSet.AVX512)

    def attends(self) -> bool:
        """Whether :attr:`attend` may be called, with the instructions in use."""
        return bool(self._attend_usable())

    def attend_scratch(self, keys: int, depth: int) -> int:
        """How many floats of scratch memory so many keys need."""
        return int(self._attend_scratch(keys, depth))

    def integer_scratch(self, length: int, inner: int, across: bool) -> int:
        """How many floats of scratch memory the scales of such a tensor need."""
        return int(self._integer_scratch(length, inner, across))

    def multiplies_bfloat16(self) -> bool:
        """Whether :attr:`linear` may be called: with the instructions in use, on this processor."""
        return bool(self._linear_usable())

    def linear_scratch(self, inputs: int) -> int:
        """How many bytes of scratch memory a linear layer needs."""
        return int(self._linear_scratch(inputs))

    def summary_scratch(self, length: int, inner: int) -> int:
        """How many floats of scratch memory the summary of such a tensor needs."""
        return int(self._scratch(length, inner))

    def attention_scratch(self, keys: int) -> int:
        """How many doubles of scratch memory rows of so many keys need."""
        return int(self._attention_scratch(keys))

    def logit_error(self, rows: AttentionRows) -> bool:
        """Counts ``[2, heads]``, sums ``[2, 2, heads]``; false if not all is finite."""
        return bool(self._rows["logit_error"](rows))

    def softmax_change(self, rows: AttentionRows) -> bool:
        """Counts ``[5, heads]``, sums as above and levels ``[2, bins, heads]``."""
        return bool(self._rows["softmax_change"](rows))

    def attention_look_scratch(self, look: AttentionLook) -> int:
        """How many floats of scratch memory a look needs."""
        return int(self._look_scratch(look))

    def attention_look(self, look: AttentionLook) -> bool:
        """Everything of a look; false if not all is finite."""
        return bool(self._look(look))

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
    extra = ", bfloat16" if kernels.multiplies_bfloat16() else ""
    return f"native C, {kernels.instruction_set.name.lower()}{extra}"


def require() -> Kernels:
    """The kernels, or an error that says why they are missing."""
    if kernels is None:
        raise InputError(f"the native kernels are {_reason}.")
    return kernels
