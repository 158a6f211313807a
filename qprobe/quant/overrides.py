"""Reads which layer has which recipe from a file, as ``qprobe plan --to qprobe`` writes it."""

import os
import tomllib
from pathlib import Path

from qprobe.errors import InputError
from qprobe.quant.catalogue import recipe as named


def read_overrides(path: str | os.PathLike[str]) -> dict[str, str]:
    """Globs of module paths with names of recipes, in their order, for :func:`override`.

    The file is TOML with one line for each glob, quoted because it holds dots::

        "blocks.0.mlp" = "bf16"
        "blocks.1.*" = "nvfp4"
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not TOML ({str(error).rstrip('.')}); write lines such as "
            '"blocks.0.mlp" = "bf16".'
        ) from error
    if not content:
        raise InputError(f'{path} names no layer; write lines such as "blocks.0.mlp" = "bf16".')
    for glob, recipe in content.items():
        if not isinstance(recipe, str):
            raise InputError(
                f"{path} gives {glob!r} {type(recipe).__name__} and not the name of a recipe; "
                'quote the whole glob, as in "blocks.0.mlp" = "bf16".'
            )
        named(recipe)
    return content
