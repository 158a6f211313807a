import os
import subprocess
import sys
from pathlib import Path

import pytest

from qprobe.errors import InputError
from qprobe.records.lock import WriterLock, is_written, lock_path

HOLD = """
import sys, time
from pathlib import Path
from qprobe.records.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_lock_is_refused_with_the_process_that_holds_the_first(path: Path):
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        try:
            assert is_written(path)
            with pytest.raises(InputError, match=rf"run\.qprobe .* by process {child.pid} on "):
                WriterLock(path)
        finally:
            child.kill()
    # The process is dead and its file is still there: the next writer takes it over.
    assert lock_path(path).exists()
    assert not is_written(path)
    WriterLock(path).release()


def test_the_same_process_is_refused_too(path: Path):
    lock = WriterLock(path)
    with pytest.raises(InputError, match=f"by process {os.getpid()} on"):
        WriterLock(path)
    lock.release()
    WriterLock(path).release()


def test_release_leaves_nothing_and_may_be_repeated(path: Path):
    lock = WriterLock(path)
    assert is_written(path)
    lock.release()
    lock.release()
    assert not lock_path(path).exists()
    assert not is_written(path)


def test_a_lock_file_without_a_name_still_locks(path: Path):
    lock = WriterLock(path)
    lock_path(path).write_text("{")
    with pytest.raises(InputError, match="by another process"):
        WriterLock(path)
    lock.release()


def test_a_lock_on_a_file_that_was_deleted_meanwhile_does_not_count(path: Path):
    first = WriterLock(path)
    lock_path(path).unlink()
    second = WriterLock(path)  # another file under the same name
    assert is_written(path)
    first.abandon()
    assert is_written(path)
    second.release()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking with threads, on 3.12
def test_a_forked_child_does_not_keep_its_parents_lock(path: Path):
    lock = WriterLock(path)
    child_ready, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(child_ready[1], b"!")
        os.read(go_on[0], 1)
        os._exit(0)
    os.read(child_ready[0], 1)
    lock.abandon()  # what the kernel does when the parent dies
    try:
        assert not is_written(path)
    finally:
        os.write(go_on[1], b"!")
        os.waitpid(child, 0)
        lock_path(path).unlink()


def test_a_folder_that_cannot_be_written_to_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written in .*: No such file or directory; ch"):
        WriterLock(tmp_path / "missing" / "x.qprobe")
