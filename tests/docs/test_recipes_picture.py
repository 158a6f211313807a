"""The picture in the README shows the recipes as they are."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_picture_is_up_to_date() -> None:
    script = runpy.run_path(str(DOCS / "recipes_picture.py"))
    assert script["draw"](script["study"]()) == (DOCS / "recipes.svg").read_text(), (
        "run `make docs`"
    )
