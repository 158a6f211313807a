import numpy as np
import pytest
import torch

from qprobe.probes.packing import Packed, on_host, pack
from qprobe.probes.summary import Summary
from qprobe.stats import Moments

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_tensors_of_any_type_come_back_bit_for_bit(shape):
    before = {str(dtype): torch.ones(shape).to(dtype) for dtype in DTYPES}
    before["strided"] = torch.randn(4, 6).t()[::2]
    packed = pack(before)
    assert packed.data.dtype == torch.uint8
    after = Packed.from_bytes(packed.skeleton, packed.data.numpy().tobytes()).unpack()
    for key, tensor in before.items():
        assert after[key].dtype == tensor.dtype
        assert torch.equal(after[key], tensor)


def test_states_come_back_whole():
    summary = Summary(3)
    summary.observe(torch.randn(5, 3))
    moments = Moments.of(torch.randn(4))
    found, also, number = on_host((summary, moments, 7))
    assert torch.equal(found.buffer.view(torch.int64), summary.buffer.view(torch.int64))
    assert torch.equal(also.pack(), moments.pack())
    assert number == 7
    found.observe(torch.randn(5, 3))  # the memory it has now can be written to
    assert found.moments().n.tolist() == [10.0] * 3


def test_a_tensor_that_is_met_twice_is_sent_once():
    one = torch.zeros(100)
    assert len(pack([one, one]).data) == len(pack([one]).data)
    first, second = pack([one, one]).unpack()
    assert torch.equal(first, second)


def test_short_lived_tensors_do_not_take_each_others_place():
    class Made:
        def __init__(self, number):
            self.number = number

        def __reduce__(self):
            return _made, (torch.full((2,), float(self.number)),)

    found = pack([Made(number) for number in range(50)]).unpack()
    np.testing.assert_array_equal(torch.stack(found)[:, 0], range(50))


def _made(tensor):
    return tensor
