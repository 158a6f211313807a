"""Memory that is kept."""

import threading

import torch

from qprobe.probes.summary_scratch import COUNT, scratch


def test_a_thread_keeps_its_memory_and_shares_it_with_no_other():
    buffers = scratch(torch.empty(7, 9))
    assert [tuple(one.shape) for one in buffers] == [(7, 9)] * COUNT
    assert len({one.data_ptr() for one in buffers}) == COUNT
    again = scratch(torch.empty(3, 5))
    assert again[0].data_ptr() == buffers[0].data_ptr()
    others = []
    thread = threading.Thread(target=lambda: others.append(scratch(torch.empty(7, 9))))
    thread.start()
    thread.join()
    assert others[0][0].data_ptr() != buffers[0].data_ptr()


def test_it_is_where_the_tensor_is():
    assert {one.device.type for one in scratch(torch.empty(2, device="meta"))} == {"meta"}
