import pytest
import torch

from qprobe import checkpoints
from qprobe.errors import InputError


@pytest.fixture
def opened(tmp_path):
    def opened_(content):
        torch.save(content, tmp_path / "m.pt")
        return checkpoints.open(tmp_path / "m.pt")

    return opened_


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module", "net"])
def test_weights_in_a_wrapper_are_found_and_said(opened, weights, key):
    found = opened({key: weights, "epoch": 3, "optimizer": {"state": torch.ones(1)}})
    assert set(found.weights) == set(weights)
    assert found.metadata == {"epoch": 3}
    assert found.notes[0] == f"the weights lie under {key!r}"
    assert "optimizer" in found.notes[1]


def test_wrappers_in_wrappers(opened, weights):
    assert set(opened({"model": {"module": weights}}).weights) == set(weights)


def test_of_several_tables_one_is_judged_and_the_others_are_named(opened, weights):
    assert "not ['net']" in opened({"state_dict": weights, "net": weights}).notes[0]


def test_names_are_those_of_the_model(opened, weights):
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()}
    found = opened(wrapped)
    assert set(found.weights) == set(weights)
    assert [n for n in found.notes if "torch.compile" in n or "DistributedData" in n] == list(
        found.notes
    )
    half = {"module.a": torch.ones(1), "b": torch.ones(1)}  # a module that is called module
    assert set(opened(half).weights) == {"module.a", "b"}


def test_a_compiled_part_of_a_model(opened):
    assert set(opened({"a._orig_mod.w": torch.ones(1)}).weights) == {"a.w"}
    with pytest.raises(InputError, match=r"stores 'a.w' twice"):
        opened({"a._orig_mod.w": torch.ones(1), "a.w": torch.ones(1)})


def test_what_is_no_tensor_among_the_weights_is_said(opened):
    assert "_extra_state" in opened({"w": torch.ones(1), "_extra_state": None}).notes[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1], "of type list, not a table"),
        (torch.ones(3), "of type Tensor, not a table"),
        ({}, "holds no weights where they are looked for; it has nothing"),
        ({"lr": 0.1}, "it has lr"),
        ({1: torch.ones(1)}, "names a weight 1, of type int"),
        ({"model": {}}, "holds no weights"),
    ],
)
def test_no_table_of_weights(opened, content, says):
    with pytest.raises(InputError, match=says):
        opened(content)


def test_weights_nested_without_end(opened):
    content = {"w": torch.ones(1)}
    for _ in range(50):
        content = {"model": content}
    with pytest.raises(InputError, match="more than 8 deep"):
        opened(content)


def test_settings_of_any_depth_do_not_break_the_reader(opened):
    deep = []
    for _ in range(200):
        deep = [deep]
    found = opened({"model": {"w": torch.ones(1)}, "deep": deep, "odd": {1: 2}, "fine": [1, ["a"]]})
    assert found.metadata == {"fine": [1, ["a"]]}
    assert "deep, odd" in found.notes[-1]


def test_parameters_come_as_plain_tensors(opened):
    found = opened({"w": torch.nn.Parameter(torch.ones(2))})
    assert not found.read("w").requires_grad


def test_of_our_checkpoints_the_model_is_judged_and_not_the_random_states(tmp_path):
    """``last.pt`` holds tensors beside the model, which a stranger's file might mean as weights."""
    path = tmp_path / "last.pt"
    content = {
        "format": "qprobe-checkpoint", "version": 1, "run": "r1", "step": 3,
        "model": {"fc.weight": torch.ones(2, 3)}, "rng": torch.zeros(8, dtype=torch.uint8),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2, 3)}}},
    }  # fmt: skip
    torch.save(content, path)
    opened = checkpoints.open(path)
    assert opened.kind is checkpoints.Kind.QPROBE
    assert set(opened.weights) == {"fc.weight"}
    assert opened.metadata["run"] == "r1"
    assert opened.notes == ()
