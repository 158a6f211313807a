"""The picture of the dashboard in the README, and the pieces that make it."""

import runpy
import struct
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> dict[str, object]:
    return runpy.run_path(str(DOCS / "dashboard_picture.py"))


def test_the_picture_is_a_screen_and_small(script: dict[str, object]) -> None:
    picture = (DOCS / "dashboard.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", picture[16:24]) == (script["WIDE"], script["HIGH"])
    assert len(picture) <= script["MOST_BYTES"]


@pytest.mark.slow
def test_the_layers_of_a_trained_model_are_measured_and_it_stays_as_it_is(script, tmp_path):
    import torch

    from qprobe.cli.main import main
    from qprobe.dashboard.family import family, table_of
    from qprobe.dashboard.library import Library

    arguments = "train --size tiny --data phantom --image 32 --steps 4 --batch 4 --quiet --out"
    assert main([*arguments.split(), str(tmp_path / "run")]) == 0
    checkpoint = tmp_path / "run" / "best.pt"
    before = checkpoint.read_bytes()
    random = torch.get_rng_state()
    path = script["watch"](tmp_path / "run", batches=2)
    torch.set_rng_state(random)
    assert checkpoint.read_bytes() == before
    library = Library([tmp_path / "run"])
    (run,) = [one for one in library.runs() if one.path == path]
    assert [one.path.name for one in family(library, run)] == [path.name, "run.qprobe"]
    table = table_of(library, run)
    assert {"fprop.x.sqnr_db", "fprop.w.sqnr_db"} <= {measure.key for measure in table.measures}
    assert "head" in table.sites
