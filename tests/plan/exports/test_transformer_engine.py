from types import SimpleNamespace

import pytest
import yaml
from jsonschema import Draft202012Validator
from sample_plans import TRICKY, tricky_plan

from qprobe.plan.exports.transformer_engine import text


def test_it_follows_the_documented_schema(schemas):
    check = Draft202012Validator(schemas("te_debug_config"))
    check.validate(yaml.safe_load(text(tricky_plan())))
    broken = {"x": {"enabled": True, "transformer_engine": {"DisableQuantisation": {}}}}
    assert not check.is_valid(broken)


@pytest.mark.filterwarnings("ignore")
def test_nvdlfw_inspect_chooses_the_layers_of_the_plan(tmp_path, monkeypatch):
    manager = pytest.importorskip("nvdlfw_inspect.config_manager")
    registry = pytest.importorskip("nvdlfw_inspect.registry")
    features = {"DisableQuantizationLayer": object()}
    data = registry.NamespaceData(name="transformer_engine", api=object, features=features)
    silent = SimpleNamespace(log_message=lambda *_, **__: None)
    monkeypatch.setattr(manager, "get_logger", lambda: silent)
    made, path = tricky_plan(), tmp_path / "te.yaml"
    path.write_text(text(made), "utf-8")
    try:
        manager.ConfigManager._load_config(path, {"transformer_engine": data, "base": data})
        disabled = {
            name
            for name in [*TRICKY, "a.bbb", "xa.b"]
            if manager.ConfigManager.get_config_for_layer(f"model.{name}")
        }
    finally:
        manager.ConfigManager.reset()
    assert disabled == {layer.path for layer in made.kept}
