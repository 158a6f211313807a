"""What the C kernels are told: the structures they read, as :mod:`ctypes` passes them."""

import ctypes
from enum import IntEnum, IntFlag
from typing import ClassVar


class Element(IntEnum):
    """Element types that the kernels read and write."""

    FLOAT32 = 0
    BFLOAT16 = 1


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


class Tokens(ctypes.Structure):
    """Float32 ``[batch, heads, tokens, channels]``, the last dense: the first and the steps."""

    _fields_: ClassVar = [
        ("first", _address),
        ("sample", _size),
        ("head", _size),
        ("token", _size),
    ]


class Attending(ctypes.Structure):
    """Attention as it is: queries, keys and values, what is added to logits, where it goes.

    There may be no bias. Keys have ``depth`` channels, values ``width``.
    """

    _fields_: ClassVar = [
        *((name, Tokens) for name in ("q", "k", "v", "bias", "out")),
        *((name, _size) for name in ("batch", "heads", "queries", "keys", "depth", "width")),
        ("scale", ctypes.c_float),
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


class Logits(ctypes.Structure):
    """Float32 logits and targets ``[images, pixels]``, to be counted ``[images, 2, bins]``, int64.

    Bins start at ``-limit``, ``each`` of them a logit; what lies beyond is in the outermost.
    """

    _fields_: ClassVar = [
        ("logits", _address),
        ("target", _address),
        ("images", _size),
        ("pixels", _size),
        ("bins", _size),
        ("limit", ctypes.c_float),
        ("each", ctypes.c_float),
        ("counts", _address),
    ]
