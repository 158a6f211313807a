"""The little YAML that the exports need: nested mappings and lists, scalars as JSON writes them.

JSON's strings, numbers and booleans are YAML's, so nothing in a layer's name can be mistaken.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Yaml: TypeAlias = "Mapping[str, Yaml] | Sequence[Yaml] | str | int | bool | None"


def dump(value: Mapping[str, Yaml], comments: Sequence[str] = ()) -> str:
    """YAML text of a mapping, after lines of comment.

    >>> print(dump({"a": {"b": ["re:x\\\\.y", 1]}, "c": []}, ["why"]), end="")
    # why
    "a":
      "b":
        - "re:x\\\\.y"
        - 1
    "c": []
    """
    lines = [f"# {line}" for line in comments] + _lines(value, "")
    return "\n".join(lines) + "\n"


def _lines(value: "Yaml", indent: str) -> list[str]:
    if isinstance(value, Mapping):
        lines = []
        for key, inner in value.items():
            name = f"{indent}{json.dumps(key, ensure_ascii=False)}:"
            nested = isinstance(inner, Mapping | list | tuple) and len(inner) > 0
            lines += [name, *_lines(inner, f"{indent}  ")] if nested else [f"{name} {_flat(inner)}"]
        return lines
    if isinstance(value, list | tuple):
        return [f"{indent}- {_flat(item)}" for item in value]
    return [f"{indent}{_flat(value)}"]


def _flat(value: "Yaml") -> str:
    return json.dumps(value, ensure_ascii=False)
