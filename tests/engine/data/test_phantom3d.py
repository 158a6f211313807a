import pytest
import torch

from qprobe.engine.data import phantom3d as module
from qprobe.engine.data.abdomen import CLASSES
from qprobe.engine.data.phantom3d import Phantom3dConfig, phantom3d, volume
from qprobe.errors import InputError

CONFIG = Phantom3dConfig(image=32)


def test_shapes_and_names(tmp_path):
    data = phantom3d(Phantom3dConfig(image=16, patients=2, cache=tmp_path))
    assert (data.name, data.channels, data.classes, len(data)) == ("phantom3d", 1, len(CLASSES), 2)
    assert data.patients == ("p0000", "p0001")
    assert data[1].sample == "p0001"
    assert data[1].image.shape == (1, 16, 16, 16)
    assert data[1].mask.shape == (16, 16, 16)


def test_a_patient_depends_on_seed_and_number_only(tmp_path):
    data = phantom3d(Phantom3dConfig(image=16, patients=3, cache=tmp_path))
    image, label = volume(Phantom3dConfig(image=16, patients=9), 2)
    assert torch.equal(data[2].image, image.float() / 255)
    assert torch.equal(data[2].mask, label)
    assert not torch.equal(image, volume(Phantom3dConfig(image=16, seed=1), 2)[0])


def test_every_patient_has_every_organ_in_realistic_proportion():
    for number in range(6):
        shares = torch.bincount(volume(CONFIG, number)[1].flatten().long()) / 32**3
        assert len(shares) == len(CLASSES)
        assert shares[0] > 0.8
        assert shares[1] == shares[1:].max()
        assert (shares[1:] > 0.0005).all()
        assert 0.02 < shares[1] < 0.12


def test_organs_lie_where_they_belong():
    """Liver and right kidney on one side, spleen and left kidney on the other, kidneys behind."""
    centres = {}
    label = volume(CONFIG, 0)[1]
    for number, name in enumerate(CLASSES):
        centres[name] = (label == number).nonzero().float().mean(0) / 32
    assert centres["liver"][2] < 0.5 < centres["spleen"][2]
    assert centres["right kidney"][2] < 0.5 < centres["left kidney"][2]
    assert centres["right kidney"][1] > centres["liver"][1]


def test_the_second_time_nothing_is_generated(tmp_path, monkeypatch):
    config = Phantom3dConfig(image=16, patients=1, cache=tmp_path)
    first = phantom3d(config)
    monkeypatch.setattr(module, "volume", None)
    assert torch.equal(phantom3d(config)[0].image, first[0].image)


@pytest.mark.parametrize("options", [{"image": 8}, {"patients": 0}, {"seed": -1}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(InputError, match=str(next(iter(options.values())))):
        Phantom3dConfig(**options)
