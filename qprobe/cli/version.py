"""``qprobe version``: what is installed and which kernels are in use."""

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from typing import Annotated

import typer

from qprobe import __version__, native

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """PyTorch as this process sees it."""

    version: str
    #: The CUDA version it was built for; ``None`` in a CPU build.
    cuda: str | None
    gpus: tuple[str, ...]
    #: Why it cannot be imported; ``None`` when it can.
    problem: str | None

    def __str__(self) -> str:
        if self.problem:
            return f"{self.version}, cannot be imported: {self.problem}"
        if self.gpus:
            return f"{self.version}, CUDA {self.cuda} on {', '.join(self.gpus)}"
        return f"{self.version}, no GPU"


def version(as_json: Json = False) -> None:
    """Show the versions that matter and the kernels in use."""
    torch = _torch()
    python = platform.python_version()
    system = f"{platform.system()} {platform.machine()}"
    if as_json:
        facts = {
            "qprobe": __version__,
            "python": python,
            "system": system,
            "torch": asdict(torch),
            "numpy": installed("numpy"),
            "kernels": {"native": native.kernels is not None, "description": native.describe()},
        }
        print(json.dumps(facts, indent=2))
        return
    rows = {
        "qprobe": __version__,
        "python": f"{python} on {system}",
        "torch": str(torch),
        "numpy": installed("numpy"),
        "kernels": native.describe(),
    }
    for name, value in rows.items():
        print(f"{name:8} {value}")


def _torch() -> Torch:
    # A broken installation is what this command is run for, so it reports one and goes on.
    try:
        import torch
    except (ImportError, OSError) as error:
        problem = " ".join(str(error).split())
        return Torch(version=installed("torch"), cuda=None, gpus=(), problem=problem)
    return Torch(
        version=torch.__version__,
        cuda=torch.version.cuda,
        gpus=tuple(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))),
        problem=None,
    )
