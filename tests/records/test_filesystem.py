from pathlib import Path

import pytest

from qprobe.records import filesystem
from qprobe.records.filesystem import mount_type, network_type

MOUNTS = r"""
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:26 / /home rw shared:5 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/ann/scratch rw master:1 - xfs /dev/sdb1 rw
32 22 0:40 / /mnt/two\040words rw - cifs //server/share rw
33 22 0:41 / /mnt/over rw - ext4 /dev/sdc1 rw
34 33 0:42 / /mnt/over rw - fuse.sshfs host: rw
a line of another kernel
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/tmp/a.qprobe", "ext4"),
        ("/home/ann/a.qprobe", "nfs4"),
        ("/home/ann/scratch/a.qprobe", "xfs"),
        ("/homework/a.qprobe", "ext4"),
        ("/mnt/two words/a.qprobe", "cifs"),
        ("/mnt/over/a.qprobe", "fuse.sshfs"),
    ],
)
def test_the_deepest_and_latest_mount_decides(path: str, expected: str):
    assert mount_type(Path(path), MOUNTS) == expected


def test_only_network_types_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(filesystem, "_MOUNTS", mounts)
    assert network_type(Path("/home/ann/run.qprobe")) == "nfs4"
    assert network_type(Path("/tmp/run.qprobe")) is None


def test_a_system_that_does_not_tell_is_taken_as_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(filesystem, "_MOUNTS", tmp_path / "none")
    assert network_type(tmp_path) is None
