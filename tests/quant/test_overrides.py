import pytest

from qprobe.errors import InputError, UnknownNameError
from qprobe.quant import read_overrides


def test_globs_in_their_order(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('"*" = "nvfp4"\n"blocks.0.mlp" = "bf16"\n')
    assert list(read_overrides(path).items()) == [("*", "nvfp4"), ("blocks.0.mlp", "bf16")]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no layer"),
        ("a = ", "is not TOML"),
        ('blocks.0.mlp = "bf16"', "quote the whole glob"),
        ('"a" = 4', "gives 'a' int and not the name of a recipe"),
        ('"a" = "bf16"\n"a" = "nvfp4"', "is not TOML"),
        ("\udcff", "is not TOML"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, text, sentence):
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=sentence):
        read_overrides(path)


def test_recipes_are_checked_at_once(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('"a" = "nvfp5"\n')
    with pytest.raises(UnknownNameError, match="nvfp5"):
        read_overrides(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_overrides(tmp_path / "none.toml")
