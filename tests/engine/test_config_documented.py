"""The page of settings names every setting, with its default."""

import re
from dataclasses import fields
from pathlib import Path

from qprobe.engine import TrainConfig

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "training-settings.md"


def documented() -> dict[str, str]:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| `([^|]*)` \|", PAGE.read_text(), re.MULTILINE)
    return {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}


def shown(default: object) -> str:
    """An enum by its text, an empty table as a table."""
    plain = getattr(default, "value", default)
    return "{}" if plain == () else repr(plain).replace("'", '"')


def test_every_setting_is_there_with_its_default():
    assert documented() == {field.name: shown(field.default) for field in fields(TrainConfig)}
