import json
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qprobe.engine import OnNonFinite, Precision, Schedule, TrainConfig
from qprobe.engine.config import protocol
from qprobe.errors import InputError

#: Another valid value for every field: a new field without one fails the test that uses them.
OTHERS = {
    "arch": "swin", "size": "tiny", "image": 32, "patch": 8, "model": (("dropout", 0.1),),
    "recipe": "nvfp4", "layers": "all", "data": "lgg", "data_options": (("patients", 3),),
    "validation": 0.2, "test": 3.0, "split_seed": 1, "fold": 0, "folds": 4, "augment": False,
    "seed": 1, "epochs": 7, "steps": 9, "batch": 64, "accumulate": 2, "optimizer": "sgd",
    "lr": 0.5, "weight_decay": 0.25, "clip": 1.0, "schedule": Schedule.COSINE, "warmup": 5,
    "patience": 3, "grace": 1, "min_delta": 0.5, "precision": Precision.BF16, "device": "cpu",
    "on_nonfinite": OnNonFinite.CONTINUE, "checkpoint_every": 10,
}  # fmt: skip
BASE = TrainConfig(schedule=Schedule.CONSTANT)


def test_every_field_changes_the_hash():
    assert OTHERS.keys() == {field.name for field in fields(TrainConfig)}
    hashes = {name: replace(BASE, **{name: value}).hash for name, value in OTHERS.items()}
    assert len({BASE.hash, *hashes.values()}) == len(OTHERS) + 1


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(sorted(OTHERS))), st.sets(st.sampled_from(sorted(OTHERS))))
def test_hashes_are_equal_where_settings_are(one, other):
    first = replace(BASE, **{name: OTHERS[name] for name in one})
    second = replace(BASE, **{name: OTHERS[name] for name in other})
    assert (first.hash == second.hash) is (first.resolved() == second.resolved())


def test_the_hash_does_not_know_how_a_value_was_written():
    assert TrainConfig(lr=1).hash == TrainConfig(lr=1.0).hash
    assert TrainConfig(optimizer="adamax", lr=5e-4).hash == TrainConfig().hash
    options = (("b", 1), ("a", 2))
    assert TrainConfig(model=options).hash == TrainConfig(model=options[::-1]).hash
    assert TrainConfig(model=(("a", 1),)).hash != TrainConfig(model=(("a", True),)).hash


@pytest.mark.parametrize("changed", [{}, *({name: value} for name, value in OTHERS.items())])
def test_json_gives_the_same_config_back(changed):
    config = replace(BASE, **changed).resolved()
    text = json.dumps(config.as_json(), allow_nan=False)
    assert TrainConfig.of(json.loads(text)) == config
    assert json.loads(text) == config.as_json()


def test_options_keep_lists_of_lists():
    config = TrainConfig.of({"model": {"channels": [16, [32, 64]], "act": "relu", "bias": None}})
    assert config.model == (("act", "relu"), ("bias", None), ("channels", (16, (32, 64))))
    assert config.as_json()["model"] == {"act": "relu", "bias": None, "channels": [16, [32, 64]]}
    assert TrainConfig.of(config.as_json()) == config
    assert hash(config) == hash(TrainConfig.of(config.as_json()))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"zzz": 1}, "a training has no setting 'zzz'; it has arch, size, "),
        ({"epoch": 1}, "a training has no setting 'epoch'; did you mean epochs"),
        ({"lr": "fast"}, "lr is of type float, got 'fast'."),
        ({"lr": True}, "lr is of type float, got True."),
        ({"lr": float("inf")}, "lr is a finite number, got inf."),
        ({"lr": float("nan")}, "lr is a finite number, got nan."),
        ({"lr": -1.0}, "lr is at least 0.0, got -1.0."),
        ({"seed": 1.5}, "seed is of type int, got 1.5."),
        ({"seed": True}, "seed is of type int, got True."),
        ({"seed": None}, "seed is of type int, got None."),
        ({"epochs": 0}, "epochs is at least 1, got 0."),
        ({"augment": "yes"}, "augment is of type bool, got 'yes'."),
        ({"arch": 3}, "arch is of type str, got 3."),
        ({"layers": "most"}, "layers is one of mid, all, got 'most'."),
        ({"optimizer": "lion"}, "optimizer is one of adamax, adamw, adam, sgd, got 'lion'."),
        ({"schedule": "linear"}, "schedule is one of plateau, cosine, constant, got 'linear'."),
        ({"model": 3}, "model is a table of options, got 3."),
        ({"model": "dropout"}, "model is a table of options, got 'dropout'."),
        (
            {"model": {"act": {"name": "relu"}}},
            "model.act is a truth value, a number, a text or a ",
        ),
        ({"clip": 0}, "clip is above 0, got 0.0, which would leave no gradient."),
        ({"validation": 0}, "validation is a share between 0 and 1 or a whole number of patients"),
        ({"test": 2.5}, "test is a share between 0 and 1 or a whole number of patients, got 2.5."),
        ({"fold": 5}, "fold counts from 0 to 4, got 5."),
        ({"warmup": 3}, "the plateau schedule has no warm-up; use cosine or constant."),
        ({"batch": 32, "accumulate": 5}, "accumulate splits a batch into equal parts: 32 samples "),
    ],
)
def test_what_cannot_be_is_refused_by_name(given, sentence):
    with pytest.raises(InputError) as refusal:
        TrainConfig.of(given)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        # A text equals the member of its name and is not it.
        ({"schedule": "cosine"}, "schedule is of type Schedule, got 'cosine'."),
        ({"precision": "bf16"}, "precision is of type Precision, got 'bf16'."),
        ({"model": {"dropout": 0.1}}, "model is of type tuple, got {'dropout': 0.1}."),
        ({"lr": "1e-3"}, "lr is of type float, got '1e-3'."),
        ({"batch": 8.0}, "batch is of type int, got 8.0."),
    ],
)
def test_a_constructor_takes_no_other_types(made, sentence):
    with pytest.raises(InputError) as refusal:
        TrainConfig(**made)
    assert str(refusal.value) == sentence


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("cnn", ("adamax", 5e-4, 0.0)),
        ("vit", ("adamw", 1e-4, 1e-4)),
        ("swin", ("adamw", 1e-4, 1e-4)),
        ("my_models:unet", ("adamw", 1e-4, 1e-4)),
    ],
)
def test_the_protocol_of_an_architecture_fills_what_is_not_given(arch, expected):
    assert protocol(arch) == expected
    config = TrainConfig(arch=arch).resolved()
    assert (config.optimizer, config.lr, config.weight_decay) == expected
    config = TrainConfig(arch=arch, lr=0.0, optimizer="sgd", weight_decay=0.5).resolved()
    assert (config.optimizer, config.lr, config.weight_decay) == ("sgd", 0.0, 0.5)
    assert config.resolved() == config
