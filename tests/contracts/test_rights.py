"""A user without rights to a file or a folder: one sentence, exit 2, and nothing half written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qprobe import records
from qprobe.records import Column, RunInfo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")

#: Commands, and a word of what each says; {locked} may not be entered, {shown} only be read.
REFUSED = (
    (["analyze", "{locked}/weights.pt"], "Permission denied"),
    (["analyze", "{home}/secret.pt"], "not readable"),
    (["analyze", "{locked}"], "not readable"),
    (["analyze", "{shown}/weights.pt"], "give another place with --out"),
    (["analyze", "{shown}/weights.pt", "-o", "{locked}/a.qprobe"], "Permission denied"),
    (["analyze", "{shown}/weights.pt", "-o", "{shown}/a.qprobe"], "another place with --out"),
    (
        ["analyze", "{shown}/weights.pt", "-o", "{home}/a.qprobe", "--html", "{shown}/a.html"],
        "a.html cannot be written; choose another place",
    ),
    (["analyze", "--subject", "{locked}/own.py:f"], "Permission denied"),
    (["analyze", "{shown}/weights.pt", "--baseline", "{home}/secret.qprobe"], "not readable"),
    (["plan", "{home}/secret.qprobe", "--keep", "1"], "not readable"),
    (["plan", "{locked}", "--keep", "1"], "not readable"),
    (["diff", "{home}/secret.qprobe", "{shown}/run.qprobe"], "not readable"),
    (["watch", "{locked}"], "not readable"),
    (["export", "{shown}/run.qprobe", "--to", "{shown}/a.csv"], "cannot be written"),
    (["dashboard", "{shown}/run.qprobe", "--export", "{shown}/a.html"], "cannot be written"),
)

RUN = """
import contextlib, io, json, sys
from qprobe.cli.main import main
for line in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(said):
        code = main(line)
    print(json.dumps([code, said.getvalue()]))
"""


def drop_rights() -> None:
    """What lets the superuser pass file rights is taken from the process."""
    import ctypes

    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability)  # PR_CAPBSET_DROP


@pytest.fixture
def places(tmp_path: Path):
    places = {"locked": tmp_path / "locked", "shown": tmp_path / "shown", "home": tmp_path}
    secret = tmp_path / "secret.qprobe", tmp_path / "secret.pt"
    for folder in (places["locked"], places["shown"]):
        folder.mkdir()
        torch.save({"a.weight": torch.zeros(16, 16)}, folder / "weights.pt")
    for path in (secret[0], places["shown"] / "run.qprobe"):
        with records.create(path, RunInfo(config={}, environment={})) as writer:
            writer.record(0, Column("head", "input", "moments", "kurtosis"), 1.0)
    torch.save({"a.weight": torch.zeros(16, 16)}, secret[1])
    for path, mode in ((places["locked"], 0), (places["shown"], 0o555), *((s, 0) for s in secret)):
        path.chmod(mode)
    yield places
    for path in (*places.values(), *secret):
        path.chmod(0o755)


def test_every_command_says_so_and_leaves_nothing(places):
    lines = [[one.format(**places) for one in line] for line, _ in REFUSED]
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(lines),
        preexec_fn=drop_rights,
        capture_output=True,
        text=True,
        check=True,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    for line, (_, word), (code, said) in zip(lines, REFUSED, told, strict=True):
        *before, last = said.splitlines()
        assert (code, last.startswith("qprobe: "), word in last) == (2, True, True), (line, said)
        assert not any("Traceback" in one for one in before)
    left = sorted(one.name for one in (*places["home"].iterdir(), *places["shown"].iterdir()))
    assert left == ["locked", "run.qprobe", "secret.pt", "secret.qprobe", "shown", "weights.pt"]
