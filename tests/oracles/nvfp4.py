"""NVFP4 a second time, slowly: tables and comparisons in NumPy, nothing shared with the package.

Written from the specification's steps, one float32 rounding each. E2M1 is decided by comparing with
the seven midpoints, E4M3 by looking for the nearest of its 127 decoded values.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = np.float32
Array = NDArray[np.float32]
MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], F32)
FLT_MAX = np.finfo(F32).max


def _decode_e4m3(code: int) -> float:
    exponent, mantissa = code >> 3, code & 7
    if exponent == 0:
        return mantissa * 2.0**-9
    return (1 + mantissa / 8) * 2.0 ** (exponent - 7)


E4M3 = np.array([_decode_e4m3(code) for code in range(127)])


def e4m3(x: Array) -> Array:
    """Nearest E4M3 value of 0 <= x <= 448, ties to the even code."""
    wide = x.astype(np.float64)
    above = np.clip(np.searchsorted(E4M3, wide), 1, 126)
    low, high = E4M3[above - 1], E4M3[above]
    down, up = wide - low, high - wide
    take_low = (down < up) | ((down == up) & ((above - 1) % 2 == 0))
    return np.where(take_low, low, high).astype(F32)


def e2m1_code(y: Array) -> NDArray[np.uint8]:
    """Code 0..15 of y; from a midpoint to the even code; a negative number keeps its sign."""
    a = np.abs(y)
    code = sum(
        reached.astype(np.uint8)
        for reached in (a > 0.25, a >= 0.75, a > 1.25, a >= 1.75, a > 2.5, a >= 3.5, a > 5)
    )
    return (code | (np.signbit(y).astype(np.uint8) << 3)).astype(np.uint8)


def e2m1_code_stochastic(y: Array, byte: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """|y| moved up by byte/256 of its step, then the largest grid value that it reaches."""
    a = np.abs(y).astype(np.float64)
    step = np.where(a < 2, 0.5, np.where(a < 4, 1.0, 2.0))
    moved = (a + byte / 256.0 * step).astype(F32)  # exact in float64, rounded once, as an fma does
    code = np.minimum(np.searchsorted(MAGNITUDES, moved, side="right") - 1, 7)
    return (code.astype(np.uint8) | (np.signbit(y).astype(np.uint8) << 3)).astype(np.uint8)


@dataclass
class Result:
    codes: NDArray[np.uint8]
    scale: Array
    amax: F32
    dequant: Array


def quantize(
    x: Array, *, axis: int = -1, two_d: bool = False, noise: NDArray[np.uint8] | None = None
) -> Result:
    """Quantize a matrix along ``axis``."""
    turned = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    bytes_ = None if noise is None else np.ascontiguousarray(np.moveaxis(noise, axis, -1))
    result = _rows(turned, two_d, bytes_)
    return Result(
        np.moveaxis(result.codes, -1, axis),
        np.moveaxis(result.scale, -1, axis),
        result.amax,
        np.moveaxis(result.dequant, -1, axis),
    )


def _rows(x: Array, two_d: bool, noise: NDArray[np.uint8] | None) -> Result:
    m, n = x.shape
    padded = np.zeros((-(-m // 16) * 16, -(-n // 16) * 16), F32)
    padded[:m, :n] = x
    amax = np.abs(x).max()
    with np.errstate(all="ignore"):
        s_enc = min(F32(2688) / amax, FLT_MAX) if amax > 0 else F32(1)
        s_enc = F32(s_enc)
        s_dec = F32(1) / s_enc
        tiles = np.abs(padded).reshape(padded.shape[0], -1, 16).max(2)
        if two_d:
            tiles = tiles.reshape(-1, 16, tiles.shape[1]).max(1).repeat(16, 0)
        scale = e4m3(np.minimum(tiles * (s_enc * F32(F32(1) / F32(6))), F32(448)))
        encode = np.minimum(F32(1) / (scale * s_dec), FLT_MAX).astype(F32)
        y = padded * encode.repeat(16, 1)
        if noise is None:
            codes = e2m1_code(y)
        else:
            spread = np.zeros(padded.shape, np.uint8)
            spread[:m, :n] = noise
            codes = e2m1_code_stochastic(y, spread)
        if amax > 0 and not np.isfinite(F32(2688) / amax):
            decode = scale * s_dec
        elif not np.isfinite(amax * F32(448)):
            decode = scale * (amax * F32(F32(1) / F32(2688)))
        else:
            decode = (scale * amax) * F32(F32(1) / F32(2688))
        values = MAGNITUDES[codes & 7] * decode.repeat(16, 1)
    values = np.where(codes & 8, -values, values)
    return Result(codes[:m, :n], scale[:m], amax, values[:m, :n])
