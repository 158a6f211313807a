from pathlib import Path

import pytest

from qprobe.cli.settings import from_file, from_pairs
from qprobe.errors import InputError


def test_values_are_read_as_toml_and_as_text_where_they_are_none():
    given = from_pairs(["a=1", "b = 2.5", "c=true", "d=[1, 2]", 'e="x=y"', "f=x=y", "g={h = 1}"])
    assert given == {
        "a": 1, "b": 2.5, "c": True, "d": [1, 2], "e": "x=y", "f": "x=y", "g": {"h": 1},
    }  # fmt: skip
    assert from_pairs(None) == {}


@pytest.mark.parametrize("pair", ["epochs", "=3", " =3"])
def test_what_is_no_pair_is_refused(pair: str):
    with pytest.raises(InputError, match="a setting is given as name=value, got"):
        from_pairs([pair])


def test_a_file(tmp_path: Path):
    path = tmp_path / "my.toml"
    path.write_text('recipe = "nvfp4"\n[model]\nname = "größer"\n', encoding="utf-8")
    assert from_file(path) == {"recipe": "nvfp4", "model": {"name": "größer"}}
    assert from_file(None) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"recipe = ", "is not TOML"), (b"\xff", "is not TOML"), (None, "cannot be read: No such")],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content, message):
    path = tmp_path / "my.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"my\.toml {message}"):
        from_file(path)
