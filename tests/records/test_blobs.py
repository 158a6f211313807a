import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qprobe.records.blobs import (
    little_endian,
    narrowed,
    pack,
    pack_steps,
    unpack,
    unpack_steps,
)


def bits(values: np.ndarray) -> list[int]:
    return values.astype(np.float64).view(np.int64).tolist()


@given(st.lists(st.floats(width=64)), st.data())
def test_values_come_back_bit_by_bit(numbers: list[float], data: st.DataObject):
    values = np.array(numbers, dtype=np.float64)
    there = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
    )
    back, mask = unpack(pack(narrowed(values), there.astype(bool)))
    assert bits(back) == bits(values)
    assert (np.ones(len(values), bool) if mask is None else mask).tolist() == there.tolist()


@given(st.lists(st.floats(width=32), min_size=1))
def test_what_is_exact_in_float32_takes_half_the_space(numbers: list[float]):
    assert len(pack(narrowed(np.array(numbers)), None).data) == 4 * len(numbers)


@pytest.mark.parametrize("value", [0.1, 1e300, 1e-300, 2.0**24 + 1])
def test_one_value_that_needs_float64_keeps_all_in_it(value: float):
    packed = pack(narrowed(np.array([1.0, value])), None)
    assert packed.dtype == "<f8"
    assert packed.data == struct.pack("<2d", 1.0, value)


def test_missing_is_one_bit_per_value_lowest_first():
    present = np.array([True, False, True] + [True] * 6)
    assert pack(np.zeros(9, "f4"), present).present == bytes([0b11111101, 0b1])
    assert pack(np.zeros(9, "f4"), np.ones(9, bool)).present is None


def test_steps_are_little_endian_int64():
    steps = np.array([0, 7, 2**40])
    assert pack_steps(steps) == struct.pack("<3q", *steps)
    assert unpack_steps(pack_steps(steps)).tolist() == steps.tolist()


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_arrays_become_little_endian_and_contiguous_in_their_shape(shape: tuple[int, ...]):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(">i2").T
    plain = little_endian(array)
    assert plain.dtype.str == "<i2"
    assert plain.flags.c_contiguous
    np.testing.assert_array_equal(plain, array)
