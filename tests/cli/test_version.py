import json
import platform
import sys

import numpy as np
import torch

from qprobe import __version__, native
from qprobe.cli.main import main


def test_version_names_what_matters(capsys):
    assert main(["version"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(rows) == ["qprobe", "python", "torch", "numpy", "kernels"]
    assert rows["qprobe"] == __version__
    assert rows["python"].startswith(f"{platform.python_version()} on ")
    assert rows["torch"].startswith(torch.__version__)
    assert rows["numpy"] == np.__version__
    assert rows["kernels"] == native.describe()


def test_json_holds_the_same(capsys):
    assert main(["version", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["qprobe"] == __version__
    assert facts["torch"]["version"] == torch.__version__
    assert facts["torch"]["gpus"] == [
        torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
    ]
    assert facts["torch"]["problem"] is None
    assert facts["kernels"] == {
        "native": native.kernels is not None,
        "description": native.describe(),
    }


def test_gpus_are_named(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", "H100 {}".format)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    main(["version"])
    assert f"{torch.__version__}, CUDA 13.0 on H100 0, H100 1\n" in capsys.readouterr().out


def test_missing_kernels_say_why(capsys, monkeypatch):
    monkeypatch.setattr(native, "kernels", None)
    monkeypatch.setattr(native, "_reason", "not built: no compiler")
    main(["version"])
    assert "kernels  PyTorch (not built: no compiler)\n" in capsys.readouterr().out
    main(["version", "--json"])
    assert json.loads(capsys.readouterr().out)["kernels"]["native"] is False


def test_a_torch_that_cannot_be_imported_is_reported_not_raised(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["version"]) == 0
    assert ", cannot be imported: import of torch halted" in capsys.readouterr().out
