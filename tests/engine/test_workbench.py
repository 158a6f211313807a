import pytest
import torch

from qprobe.engine import Precision, Schedule
from qprobe.engine.workbench import environment, prepare
from qprobe.errors import InputError


def test_the_environment_says_what_a_result_may_depend_on(small):
    bench = prepare(small(arch="cnn", recipe="nvfp4"))
    found = environment(bench)
    assert found.keys() == {
        "qprobe", "torch", "python", "system", "processor", "device", "precision", "kernels",
        "threads", "parameters", "converted", "left_alone",
    }  # fmt: skip
    assert found["torch"] == torch.__version__
    assert (found["device"], found["precision"], found["threads"]) == ("cpu", "fp32", 1)
    assert found["parameters"] == sum(p.numel() for p in bench.model.parameters())
    assert set(found["converted"]) | set(found["left_alone"]) >= {"encoder.0.conv", "head"}
    assert found["left_alone"]["head"] == "last layer"


def test_the_precision_of_auto_is_that_of_the_device(small):
    bench = prepare(small())
    assert bench.precision is Precision.FP32
    with bench.autocast():
        assert not torch.is_autocast_enabled("cpu")
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        bench = prepare(small(precision=name))
        assert bench.scaler.is_enabled() is (name == "fp16")
        with bench.autocast():
            assert torch.get_autocast_dtype("cpu") == dtype
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_device_that_is_not_there_is_refused(small):
    for device in ("cuda:7", "abacus"):
        with pytest.raises(InputError, match=f"the device '{device}' cannot be used here: .*'cpu'"):
            prepare(small(device=device))


def test_steps_and_epochs_cap_each_other(small):
    assert prepare(small(epochs=3)).total == 12
    assert prepare(small(epochs=3, steps=5)).total == 5
    assert prepare(small(epochs=3, steps=50)).total == 12


def test_whole_numbers_are_patients_and_shares_are_shares(small):
    def patients(**changes):
        bench = prepare(small(**changes))
        loaders = (bench.train, bench.validation, bench.test)
        return [len({p for batch in loader for p in batch.patients}) for loader in loaders]

    assert patients(validation=3, test=1) == [8, 3, 1]
    assert patients(validation=0.25, test=0.5) == [3, 3, 6]
    assert patients(fold=0, folds=4, validation=1) == [8, 1, 3]


def test_folds_test_every_patient_once(small):
    tested = []
    for fold in range(4):
        bench = prepare(small(fold=fold, folds=4, validation=1))
        parts = [
            {p for batch in loader for p in batch.patients}
            for loader in (bench.train, bench.validation, bench.test)
        ]
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]
        tested += parts[2]
    assert len(tested) == len(set(tested)) == 12


def test_augmentation_is_of_the_training_set_only_and_can_be_left_out(small):
    bench = prepare(small())
    assert bench.train.config.augment is not None
    assert (bench.train.config.shuffle, bench.train.config.drop_last) == (True, True)
    for loader in (bench.validation, bench.test):
        assert loader.config.augment is None
        assert (loader.config.shuffle, loader.config.drop_last) == (False, False)
    assert prepare(small(augment=False)).train.config.augment is None


def test_the_split_and_the_seed_of_the_training_are_two(small):
    def split(**changes):
        return {p for batch in prepare(small(**changes)).test for p in batch.patients}

    assert split(seed=1) == split(seed=2)
    assert any(split(split_seed=seed) != split() for seed in (1, 2, 3))


def test_the_data_are_as_large_as_the_model_expects_unless_they_say_otherwise(small, cache):
    assert next(iter(prepare(small(image=48)).train)).image.shape[-1] == 48
    options = {"patients": 12, "slices": 4, "image": 64, "cache": str(cache)}
    assert next(iter(prepare(small(data_options=options)).train)).image.shape[-1] == 64


def test_every_setting_of_the_model_reaches_it(small):
    bench = prepare(small(arch="swin", model={"depth": 2, "heads": 4}, patch=4, layers="all"))
    assert bench.model.config.depth == 2
    assert not [one for one in bench.conversion.left_alone if "first layer" in one.rule]
    assert prepare(small(schedule=Schedule.COSINE)).schedule.__class__.__name__ == "LambdaLR"
