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
from enum import IntEnum, IntFlag
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec
from typing import ClassVar, Final

from qprobe.errors import InputError

_ABI: Final = 7
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


class Rows(IntEnum):
    """How a linear layer rounds its input."""

    BLOCKS = 0
    ROW = 1
    TENSOR = 2


class Sampled(IntFlag):
    """What a summary measures on the sampled tokens."""

    NOTHING = 0
    HISTOGRAM = 1
    NVFP4 = 2
    INT4 = 4


_address = ctypes.c_void_p
_size = ctypes.c_int64


class Observation(ctypes.Structure):
    """A tensor ``[outer, length, inner]`` (channels in the middle) and its summary's memory.

    Every pointer is the address of dense memory the caller owns; results are added to what is
    there.
    """

    _fields_: ClassVar = [
        ("x", _address),
        ("type", _size),
        ("outer", _size),
        ("length", _size),
        ("inner", _size),
        ("fields", _size),
        ("stride", _size),
        ("offset", _size),
        ("reference", _address),
        ("channels", _address),
        ("tokens", _address),
        ("nonfinite", _address),
        ("magnitudes", _address),
        ("counts", _address),
        ("energy", _address),
        ("scratch", _address),
    ]


class AttentionRows(ctypes.Structure):
    """Logits ``[samples, heads, queries, keys]`` before and after, and where their results go.

    They and the bias are float64 where ``wide``, else float32.

    Every pointer is the address of dense memory the caller owns, or nothing: for no bias, and where
    all keys are visible. Counts and sums are added to, levels are written.
    """

    _fields_: ClassVar = [
        ("before", _address),
        ("after", _address),
        ("bias", _address),
        ("visible", _address),
        ("wide", _size),
        ("samples", _size),
        ("heads", _size),
        ("queries", _size),
        ("keys", _size),
        ("counts", _address),
        ("sums", _address),
        ("levels", _address),
        ("scratch", _address),
    ]


class Sharing(IntEnum):
    """What shares a scale: NVFP4's blocks or square tiles; integers of a row or a whole tensor."""

    BLOCKS = 0
    TILES = 1
    ROWS = 2
    WHOLE = 3


class Projecting(IntFlag):
    """Which projections are made anew: of quantized operands, and of operands as they are."""

    NEITHER = 0
    QUANTIZED = 1
    PLAIN = 2


class How(ctypes.Structure):
    """How an operand is quantized: what shares a scale, and of integers the largest."""

    _fields_: ClassVar = [("sharing", _size), ("largest", ctypes.c_double)]


class Vectors(ctypes.Structure):
    """Vectors of one head: the address of the first, and how far samples and tokens are apart.

    ``top`` is the largest magnitude of all heads, where the whole tensor shares a scale.
    """

    _fields_: ClassVar = [
        ("first", _address),
        ("type", _size),
        ("sample", _size),
        ("token", _size),
        ("top", ctypes.c_double),
    ]


class Layer(ctypes.Structure):
    """A layer ``x·wᵀ + bias`` and which rows of its weight make up one head.

    ``x`` is ``[tokens, inputs]``, dense, its samples ``sample`` elements apart; ``weight`` is
    ``[outputs, inputs]``, ``bias`` nothing or ``[outputs]``. ``type`` is what the layer casts all
    three to, and what it gives.
    """

    _fields_: ClassVar = [
        ("x", _address),
        ("weight", _address),
        ("bias", _address),
        ("type", _size),
        ("x_type", _size),
        ("weight_type", _size),
        ("bias_type", _size),
        ("sample", _size),
        ("tokens", _size),
        ("outputs", _size),
        ("inputs", _size),
        ("row", _size),
        ("step", _size),
    ]


class AttentionLook(ctypes.Structure):
    """A sample of one head of an attention where it lies, and where results go.

    Those are as in :class:`AttentionRows`: of logits, of their softmax, of projected logits, which
    are left alone where ``projected`` is :attr:`Projecting.NEITHER`.
    """

    _fields_: ClassVar = [
        ("q", Vectors),
        ("k", Vectors),
        ("of_q", Layer),
        ("of_k", Layer),
        ("attending", How),
        ("input", How),
        ("weight", How),
        ("projected", _size),
        ("samples", _size),
        ("queries", _size),
        ("keys", _size),
        ("depth", _size),
        ("sample", _address),
        ("query", _address),
        ("scale", ctypes.c_double),
        ("bias", _address),
        ("visible", _address),
        ("counts", _address * 3),
        ("sums", _address * 3),
        ("levels", _address),
        ("scratch", _address),
    ]


class Linear(ctypes.Structure):
    """A linear layer: dense ``x [rows, inputs]``, ``y [rows, outputs]`` and the packed weight.

    That is bfloat16, ``[outputs / 32, depth / 2, 32, 2]``, the depth a multiple of 16; what is
    missing of outputs and inputs is zero. There may be no bias.
    """

    _fields_: ClassVar = [
        ("x", _address),
        ("y", _address),
        ("rows", _size),
        ("inputs", _size),
        ("outputs", _size),
        ("form", _size),
        ("largest", ctypes.c_double),
        ("weight", _address),
        ("scale", _address),
        ("bias", _address),
        ("scratch", _address),
    ]


class Binned(ctypes.Structure):
    """Counts of negatives and positives ``[rows, bins]`` by rising score, float64.

    Both lie alike, ``row`` and ``bin`` elements apart. ``total`` and ``hits`` of each row are
    written: what its positives add to average precision, and their number.
    """

    _fields_: ClassVar = [
        ("negatives", _address),
        ("positives", _address),
        ("rows", _size),
        ("bins", _size),
        ("row", _size),
        ("bin", _size),
        ("total", _address),
        ("hits", _address),
    ]


_SIGNATURES: Final = {
    "qprobe_average_precision": [ctypes.POINTER(Binned)],
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
        self.average_precision = library.qprobe_average_precision
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
