"""How each tool decides which layers a file is about, written down from its documentation."""

import ast
import json
import re
import tomllib
from fnmatch import fnmatchcase
from typing import Any

import yaml

Layers = dict[str, bool]


def modelopt_literal(text: str) -> Any:
    """The value of the module's only statement, which has to be a literal."""
    (statement,) = ast.parse(text).body
    assert isinstance(statement, ast.Assign)
    return ast.literal_eval(statement.value)


def by_qprobe(text: str, names: tuple[str, ...]) -> Layers:
    """Later globs win; bf16 quantizes nothing."""
    found = {}
    for name in names:
        matches = [r for glob, r in tomllib.loads(text).items() if fnmatchcase(name, glob)]
        found[name] = matches[-1:] not in ([], ["bf16"])
    return found


def by_modelopt(text: str, names: tuple[str, ...]) -> Layers:
    """Entries apply in order to quantizers, whose names they match as ``fnmatch`` does."""
    found = {}
    for name in names:
        states = {f"{name}.{kind}_quantizer": True for kind in ("weight", "input", "output")}
        for entry in modelopt_literal(text)["quant_cfg"]:
            for quantizer in states:
                if fnmatchcase(quantizer, entry["quantizer_name"]):
                    states[quantizer] = entry.get("enable", True)
        on = list(states.values())
        assert on in ([True, True, False], [False] * 3), (name, states)
        found[name] = on[0]
    return found


def by_torchao(text: str, names: tuple[str, ...]) -> Layers:
    """The exact name first, then the first regular expression that matches all of it."""
    keys: dict[str, Any] = json.loads(text)["_data"]["fqn_to_config"]
    patterns = {key[3:]: value for key, value in keys.items() if key.startswith("re:")}
    plain = {key: value for key, value in keys.items() if not key.startswith("re:")}
    found = {}
    for name in names:
        matches = [value for pattern, value in patterns.items() if re.fullmatch(pattern, name)]
        configuration = plain[name] if name in plain else [*matches, None][0]
        found[name] = configuration is not None
    return found


def by_llm_compressor(text: str, names: tuple[str, ...]) -> Layers:
    """Targets less what is ignored; a regular expression matches from the start."""

    def matches(target: str, name: str) -> bool:
        if target.startswith("re:"):
            return re.match(target[3:], name) is not None
        return target in (name, "Linear")

    modifier = yaml.safe_load(text)["default_stage"]["default_modifiers"]["QuantizationModifier"]
    targets = modifier["config_groups"]["group_0"]["targets"]
    return {
        name: any(matches(one, name) for one in targets)
        and not any(matches(one, name) for one in modifier["ignore"])
        for name in names
    }


def by_te(text: str, names: tuple[str, ...]) -> Layers:
    """The feature is on where the expression matches anywhere in the name."""
    (section,) = yaml.safe_load(text).values()
    assert section["transformer_engine"] == {"DisableQuantizationLayer": {"enabled": True}}
    pattern = section["layers"]["layer_name_regex_pattern"]
    return {name: re.search(pattern, f"model.{name}") is None for name in names}


RULES = {
    "qprobe": by_qprobe,
    "modelopt": by_modelopt,
    "torchao": by_torchao,
    "llm-compressor": by_llm_compressor,
    "te": by_te,
}
