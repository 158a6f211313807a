import json
import os

import pytest
import torch
from safetensors.torch import save_file

from qprobe import checkpoints
from qprobe.checkpoints import Kind
from qprobe.errors import InputError


def same(opened, weights):
    assert set(opened.weights) == set(weights)
    for name, tensor in weights.items():
        read = opened.read(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read.float(), tensor.float()), name


def test_a_state_dict_by_any_name(weights, tmp_path):
    for name in ("a.pt", "pytorch_model.bin", "b.safetensors.txt"):
        torch.save(weights, tmp_path / name)
        opened = checkpoints.open(tmp_path / name)
        assert opened.kind is Kind.STATE_DICT
        same(opened, weights)


def test_safetensors_with_its_metadata(weights, tmp_path):
    save_file(weights, tmp_path / "m.bin", metadata={"format": "pt"})
    opened = checkpoints.open(tmp_path / "m.bin")
    assert (opened.kind, opened.metadata) == (Kind.SAFETENSORS, {"format": "pt"})
    same(opened, weights)


def test_our_own_checkpoint_says_how_to_rebuild(weights, tmp_path):
    from qprobe.engine import checkpoint

    moment = {"0": {"exp_avg": torch.zeros(3)}}
    content = {"model": weights, "config": {"size": "tiny", "seeds": [1, 2]}, "optimizer": moment}
    checkpoint.save(tmp_path / "best.pt", content)
    opened = checkpoints.open(tmp_path)  # the training's folder
    assert (opened.kind, opened.path) == (Kind.QPROBE, tmp_path / "best.pt")
    assert opened.metadata["config"] == {"size": "tiny", "seeds": [1, 2]}
    assert opened.notes == ()  # what else a checkpoint of ours holds is known
    same(opened, weights)


def sharded(weights, folder, changes=None):
    names = sorted(weights)
    table = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: weights[name] for name in part}, folder / file)
        table |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table | (changes or {})}))
    return index


def test_shards_by_index_and_by_folder(weights, tmp_path):
    index = sharded(weights, tmp_path)
    for path in (index, tmp_path):
        opened = checkpoints.open(path)
        assert opened.kind is Kind.SAFETENSORS
        assert len(opened.source.files) == 2
        same(opened, weights)


def test_a_sharded_hugging_face_folder_as_transformers_writes_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        vocab_size=64, max_position_embeddings=16,
    )  # fmt: skip
    model = transformers.BertModel(config)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    opened = checkpoints.open(tmp_path)
    same(opened, {k: v for k, v in model.state_dict().items() if k in opened.weights})
    assert len(opened.weights) >= len(list(model.parameters()))
    assert opened.metadata["config.json"]["model_type"] == "bert"


def test_shards_of_torch_save(weights, tmp_path):
    torch.save(weights, tmp_path / "pytorch_model-1.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(weights, "pytorch_model-1.bin")}))
    opened = checkpoints.open(index)
    assert opened.kind is Kind.STATE_DICT
    same(opened, weights)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stem.weight": "gone.safetensors"}, "gone.safetensors', which is not beside it"),
        ({"stem.weight": "../secret.safetensors"}, "outside its own folder"),
        ({"stem.weight": "/etc/passwd"}, "outside its own folder"),
        ({"stem.weight": ".."}, "outside its own folder"),
        ({"stem.weight": "a\0b"}, "outside its own folder"),
        ({"stem.weight": 3}, "not to the name of a file"),
        ({"new.weight": "model-0.safetensors"}, "'new.weight' is in 'model-0"),
    ],
)
def test_a_broken_index_is_refused(weights, tmp_path, changes, says):
    inside = tmp_path / "inside"
    inside.mkdir()
    save_file(weights, tmp_path / "secret.safetensors")
    index = sharded(weights, inside, changes)
    with pytest.raises(InputError, match=says):
        checkpoints.open(index)


def test_a_broken_config_beside_is_said_and_not_fatal(weights, tmp_path):
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert "config.json is not readable JSON" in checkpoints.open(tmp_path).notes[0]


def nothing(path):
    path.mkdir()


def text(path):
    path.write_text("these are no weights at all")


def loop(path):
    path.symlink_to(path.name)


def several(path):
    path.mkdir()
    for name in "ab":
        save_file({"w": torch.zeros(1)}, path / f"{name}.safetensors")


def pickled(path):
    import pickle

    path.write_bytes(pickle.dumps({"w": 1}))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nothing, "has no weights"),
        (text, "is no checkpoint: it begins neither"),
        (loop, "cannot be opened"),
        (several, "2 files .*a.safetensors, b.safetensors.* no index"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: None, "cannot be opened: No such file"),
        (os.mkfifo, "is no file"),
        (pickled, "bare pickle"),
        (lambda path: path.write_bytes(b"GGUF" + bytes(99)), "GGUF file; convert"),
    ],
)
def test_what_is_no_checkpoint_gets_one_sentence(make, says, tmp_path):
    path = tmp_path / "given"
    make(path)
    with pytest.raises(InputError, match=says) as caught:
        checkpoints.open(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("head", [b"", b"PK\x03\x04", b"\x00\x00\x00\x80\x00\x00\x00\x00{"])
def test_gigabytes_of_nonsense_are_not_read(head, tmp_path, monkeypatch):
    path = tmp_path / "nonsense"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(3 * 2**30)  # sparse: reading it would take 3 GB of memory
    before = _peak_kb()
    with pytest.raises(InputError):
        checkpoints.open(path)
    assert _peak_kb() - before < 200_000


def _peak_kb():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_a_folder_of_folders_names_those_with_weights(tmp_path):
    for name in ("unet", "vae", "tokenizer"):
        (tmp_path / name).mkdir()
    for name in ("unet", "vae"):
        save_file({"w": torch.ones(2)}, tmp_path / name / "diffusion_pytorch_model.safetensors")
    with pytest.raises(InputError, match=r"name one of its folders unet, vae\.$"):
        checkpoints.open(tmp_path)
