"""Writes small pictures as PNG, into the address of an image."""

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def picture(rgb: NDArray[np.uint8]) -> str:
    """A ``data:`` address of an 8-bit picture ``[rows, columns, 3]``.

    >>> picture(np.zeros((1, 1, 3), dtype=np.uint8))[:40]
    'data:image/png;base64,iVBORw0KGgoAAAANSU'
    """
    rows, columns, _ = rgb.shape
    # Each row begins with the number of its filter; 0 is none.
    lines = np.zeros((rows, 1 + 3 * columns), dtype=np.uint8)
    lines[:, 1:] = rgb.reshape(rows, 3 * columns)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)),
            _chunk(b"IEND", b""),
        ]
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
