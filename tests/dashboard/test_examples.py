import numpy as np

from qprobe import records
from qprobe.dashboard.examples import ALARM, HIT, MISSED, Example, examples, overlaid
from qprobe.records import Array, RunInfo, create


def test_a_run_shows_its_samples(library):
    found = library.answer(library.run("vit-bf16-s0"), examples)
    assert list(found) == ["p0000/s00", "p0000/s01", "p0000/s02"]
    one = found["p0000/s00"]
    assert one.image.shape == one.mask.shape == one.predicted.shape == (64, 64)
    assert (one.image.min(), one.image.max()) == (0, 1)
    assert 0 < one.wrong < 0.2


def test_each_kind_of_pixel_has_its_colour():
    mask, said = np.array([[1, 1, 0, 0]]) > 0, np.array([[1, 0, 1, 0]]) > 0
    picture = overlaid(Example(image=np.zeros((1, 4)), mask=mask, predicted=said), said)[0]
    for pixel, colour in zip(picture, (HIT, MISSED, ALARM, (0, 0, 0)), strict=True):
        np.testing.assert_allclose(pixel, 0.55 * np.array(colour), atol=1)


def test_volumes_are_cut_where_the_truth_is_and_classes_are_foreground(tmp_path):
    mask = np.zeros((1, 4, 8, 8), dtype=np.uint8)
    mask[0, 2, 3:5, 3:5] = 2
    logits = np.zeros((3, 4, 8, 8), dtype=np.float32)
    logits[2, 2, 3:5, 3:5] = 5.0
    parts = {"image": np.ones((1, 4, 8, 8), np.float32), "mask": mask, "logits": logits}
    with create(tmp_path / "a.qprobe", RunInfo(config={}, environment={})) as writer:
        writer.arrays(
            Array(step=0, site="", role="", probe="examples", key=f"v.1.{kind}", data=data)
            for kind, data in parts.items()
        )
    with records.open(tmp_path / "a.qprobe") as reader:
        (found,) = examples(reader).values()
    assert found.mask.sum() == 4
    assert found.wrong == 0
