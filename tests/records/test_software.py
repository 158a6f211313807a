import platform
from importlib.metadata import PackageNotFoundError

import torch

import qprobe
from qprobe import native
from qprobe.records import software as module
from qprobe.records.software import software


def test_it_names_what_is_installed_and_the_kernels():
    said = software()
    assert (said["qprobe"], said["torch"]) == (qprobe.__version__, torch.__version__)
    assert said["python"] == platform.python_version()
    assert said["kernels"] == native.describe()


def test_a_run_is_written_where_torch_is_not_installed(monkeypatch):
    def version(name):
        if name == "torch":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(module, "version", version)
    assert "torch" not in software()
    assert software()["qprobe"] == "1"
