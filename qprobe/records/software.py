"""What every run says of the software that wrote it, whoever wrote it."""

import platform
from importlib.metadata import PackageNotFoundError, version

from qprobe import native
from qprobe.records.schema import Json


def software() -> dict[str, Json]:
    """Versions, operating system and kernels; a library that is not installed has no entry."""
    found: dict[str, Json] = {}
    for name in ("qprobe", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        **found,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "kernels": native.describe(),
    }
