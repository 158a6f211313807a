import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent.parent / "data" / "plan"


@pytest.fixture
def schemas() -> Callable[[str], Any]:
    """Schemas of other tools' files, with their sources in ``$comment``."""
    return lambda name: json.loads((DATA / f"{name}.schema.json").read_text("utf-8"))
