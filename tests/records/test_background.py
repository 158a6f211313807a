import threading
import time

import pytest

from qprobe.errors import QprobeError
from qprobe.records.background import BackgroundCommitter
from qprobe.records.schema import Status
from qprobe.records.window import StatusChange, Window


def window(text: str) -> Window:
    return Window(status=StatusChange(Status.RUNNING, text))


class Recorder:
    def __init__(self, fail_at: str | None = None) -> None:
        self.written: list[str] = []
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()
        self._fail_at = fail_at

    def commit(self, window: Window) -> None:
        self.gate.wait()
        assert window.status is not None
        assert window.status.reason is not None
        if window.status.reason == self._fail_at:
            raise QprobeError(f"no room for {self._fail_at}")
        self.written.append(window.status.reason)

    def wait(self) -> None:
        raise AssertionError("nothing waits for the inner committer")

    def close(self) -> None:
        self.closed = True


def test_windows_are_written_in_order_and_before_closing():
    inner = Recorder()
    committer = BackgroundCommitter(inner)
    for number in range(50):
        committer.commit(window(str(number)))
    committer.close()
    assert inner.written == [str(number) for number in range(50)]
    assert inner.closed


def test_waiting_means_written():
    inner = Recorder()
    committer = BackgroundCommitter(inner)
    committer.commit(window("a"))
    committer.wait()
    assert inner.written == ["a"]
    committer.close()


def test_the_caller_is_held_back_when_the_disk_is_slow():
    inner = Recorder()
    inner.gate.clear()
    committer = BackgroundCommitter(inner, depth=2)
    for text in "abc":  # one in the writer's hands, two in the queue
        committer.commit(window(text))
    fourth = threading.Thread(target=committer.commit, args=(window("d"),))
    fourth.start()
    time.sleep(0.05)
    assert fourth.is_alive()
    inner.gate.set()
    fourth.join(timeout=5)
    committer.close()
    assert inner.written == list("abcd")


@pytest.mark.parametrize("surface", ["commit", "wait", "close"])
def test_an_error_appears_at_the_next_call_and_stops_the_writing(surface: str):
    inner = Recorder(fail_at="b")
    committer = BackgroundCommitter(inner)
    committer.commit(window("a"))
    committer.commit(window("b"))
    committer._queue.join()
    call = {"commit": lambda: committer.commit(window("c"))}.get(
        surface, getattr(committer, surface)
    )
    with pytest.raises(QprobeError, match="no room for b"):
        call()
    if surface != "close":
        with pytest.raises(QprobeError, match="no room for b"):
            committer.close()
    assert inner.written == ["a"]
    assert inner.closed


def test_a_full_queue_behind_an_error_does_not_block():
    inner = Recorder(fail_at="a")
    inner.gate.clear()
    committer = BackgroundCommitter(inner, depth=1)
    committer.commit(window("a"))
    committer.commit(window("b"))
    inner.gate.set()
    committer._queue.join()
    with pytest.raises(QprobeError, match="no room for a"):
        committer.close()
    assert not committer._thread.is_alive()
    assert inner.written == []
