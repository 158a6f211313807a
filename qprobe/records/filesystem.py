"""Tells a network file system from a local one.

SQLite's write-ahead log keeps its index in memory that processes share through a mapped file, which
no network file system offers between machines: a run written there can be corrupted.
"""

from pathlib import Path

#: Types as the kernel names them. FUSE file systems are listed one by one: many are local.
NETWORK_TYPES = frozenset(
    {
        "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.cephfs", "fuse.gcsfuse",
        "fuse.glusterfs", "fuse.juicefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gpfs",
        "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs",
        "wekafs",
    }
)  # fmt: skip

_MOUNTS = Path("/proc/self/mountinfo")


def network_type(path: Path) -> str | None:
    """The type of the network file system that ``path`` is on, or None where it is local.

    Linux only: elsewhere the answer is None, because the system does not tell cheaply.
    """
    if not _MOUNTS.exists():
        return None
    found = mount_type(path.resolve(), _MOUNTS.read_text(encoding="utf-8", errors="replace"))
    return found if found in NETWORK_TYPES else None


def mount_type(path: Path, mountinfo: str) -> str | None:
    """The file-system type of the deepest mount that holds ``path``.

    ``mountinfo`` is the text of ``/proc/self/mountinfo``; a later line covers an earlier one.

    >>> text = '''21 1 8:1 / / rw - ext4 /dev/sda1 rw
    ... 40 21 0:41 / /home/my\\\\040data rw shared:3 - nfs4 server:/data rw'''
    >>> mount_type(Path("/home/my data/run.qprobe"), text), mount_type(Path("/home/x"), text)
    ('nfs4', 'ext4')
    """
    deepest, kind = -1, None
    for line in mountinfo.splitlines():
        mount, separator, system = line.partition(" - ")
        fields = mount.split()
        if not separator or len(fields) < 5:
            continue
        point = Path(_unescape(fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= deepest:
            deepest, kind = len(point.parts), system.split()[0]
    return kind


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
