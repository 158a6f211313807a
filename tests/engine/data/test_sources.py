import sys
from pathlib import Path

import pytest
import torch

from qprobe.engine.data import configure, load, names, options
from qprobe.engine.data.dataset import Dataset, HeldDataset, Sample
from qprobe.engine.data.nifti import NiftiConfig, View
from qprobe.engine.data.phantom import PhantomConfig, Setting
from qprobe.errors import InputError, UnknownNameError

OWN = """
import torch
from qprobe.engine.data import Sample

class Own:
    name, channels, classes = "own", 1, 2
    def __init__(self, count):
        self.patients = [f"p{i}" for i in range(count)]
    def __len__(self):
        return len(self.patients)
    def __getitem__(self, index):
        return Sample(image=torch.zeros(1, 4, 4), mask=torch.zeros(4, 4, dtype=torch.uint8),
                      patient=self.patients[index], sample=str(index))

def make(count=3):
    return Own(count)

def nothing():
    return [1, 2]

constant = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> str:
    (tmp_path / "own_data_module.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_data_module", raising=False)
    return "own_data_module"


def test_the_built_in_sets_and_their_options_have_names():
    assert names() == ["busi", "lgg", "nifti", "phantom", "phantom3d"]
    assert options("lgg") == ("root", "image", "channels", "in_memory")


def test_a_set_is_loaded_by_its_config_or_by_options(tmp_path):
    config = PhantomConfig(patients=1, slices=2, image=32, setting=Setting.HARD, cache=tmp_path)
    by_name = {"patients": 1, "slices": 2, "image": 32, "setting": "hard", "cache": str(tmp_path)}
    assert configure("phantom", by_name) == config
    first, second = load("phantom", config), load("phantom", by_name)
    assert isinstance(first, Dataset)
    assert torch.equal(first[1].image, second[1].image)
    small = load("phantom3d", {"image": 16, "patients": 1, "cache": tmp_path})
    assert small.classes == 6


def test_strings_become_what_a_field_holds():
    given = {"root": "a/b", "image": "96", "view": "slice", "binary": "true", "in_memory": "false"}
    assert configure("nifti", given) == NiftiConfig(
        root=Path("a/b"), image=96, view=View.SLICE, binary=True, in_memory=False
    )
    assert configure("nifti", {"root": "a", "image": None}).image is None


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("phantom", {"colour": 3}, "'phantom' has no option 'colour'; it has setting, image"),
        ("phantom", {"setting": "medium"}, "'medium'; it has to be one of easy, hard"),
        ("phantom", {"image": "big"}, "option 'image' of 'phantom' is 'big'; .* of type int"),
        ("phantom", {"image": True}, "option 'image' of 'phantom' is True"),
        ("phantom", {"seed": None}, "option 'seed' of 'phantom' is None"),
        ("nifti", {"root": 3}, "option 'root' of 'nifti' is 3; it has to be of type Path"),
        ("nifti", {"root": "a", "binary": "yes"}, "option 'binary' of 'nifti' is 'yes'"),
        ("lgg", {}, "'lgg' needs the option 'root'"),
        ("lgg", None, "'lgg' needs the option 'root'"),
        ("lgg", PhantomConfig(), "'lgg' takes a LggConfig, not a PhantomConfig"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(name, given, message):
    with pytest.raises(InputError, match=message):
        load(name, given)


def test_an_unknown_name_names_its_neighbours():
    with pytest.raises(UnknownNameError, match="called 'fantom'; did you mean 'phantom'"):
        load("fantom")
    with pytest.raises(UnknownNameError, match="known: busi, lgg, nifti, phantom, phantom3d"):
        options("xyz")


def test_ones_own_data_go_by_module_and_factory(own):
    assert len(load(f"{own}:make")) == 3
    data = load(f"{own}:make", {"count": 5})
    assert data.patients[4] == "p4"
    assert isinstance(data[4], Sample)


@pytest.mark.parametrize(
    ("factory", "given", "message"),
    [
        ("absent", None, "could not be imported .*absent"),
        ("constant", None, "is a int and not a function"),
        ("nothing", None, "returned a list; a data set has name, channels"),
        ("make", {"count": 0}, "has 0 samples and names 0 patients"),
        ("make", PhantomConfig(), "takes its options by name, not a PhantomConfig"),
    ],
)
def test_a_factory_that_does_not_fit_is_refused(own, factory, given, message):
    with pytest.raises(InputError, match=message):
        load(f"{own}:{factory}", given)


def test_a_module_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"could not be imported .*set PYTHONPATH"):
        load("no_such_module_here:make")


@pytest.mark.parametrize("name", ["../mine.py:make", ".mine:make", "folder/mine:make"])
def test_a_path_is_no_module(name):
    with pytest.raises(InputError, match="names a path; give a module"):
        load(name)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(4, 4), "give float32 and uint8"),
        (torch.zeros(1, 4, 4), torch.zeros(4, 4), "mask of torch.float32"),
        (torch.zeros(1, 4, 4), torch.zeros(4, 5, dtype=torch.uint8), r"mask of shape \(4, 5\)"),
        (torch.zeros(4, 4), torch.zeros(4, dtype=torch.uint8), r"image of shape \(4, 4\)"),
    ],
)
def test_a_sample_that_is_none_is_refused_by_name(image, mask, message):
    with pytest.raises(InputError, match=f"sample 's1' has an image .*{message}|{message}"):
        Sample(image=image, mask=mask, patient="p", sample="s1")


def test_held_data_are_read_once(own):
    lazy = load(f"{own}:make")
    held = HeldDataset(lazy)
    assert held[1] is held[1]
    assert (held.name, held.channels, held.classes) == ("own", 1, 2)
    assert list(held.patients) == list(lazy.patients)
