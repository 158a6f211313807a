import pytest
import torch
from attention import EVERYWHERE, HEADS, STRESS, cells, look, stressed, under

from qprobe.models import build

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MASKS = (IMAGES[:, :1] > 1).float()


@pytest.fixture(scope="module")
def model():
    found = build("swin", "tiny", image=32, patch=4).eval()
    with torch.no_grad():
        for block in found.blocks:
            block.attn.qkv.weight.mul_(4)
    return found


def test_head_dimensions_share_one_width():
    assert {dim * heads for dim, heads in HEADS.items()} == {32}
    trained = {c.settings["config"]["model"].get("heads") for c in cells("cpu") if not c.needs}
    assert trained == {HEADS[8], HEADS[32]}


def test_stress_is_put_on_the_models_of_the_grid_that_were_trained_in_bf16():
    looks = [cell for cell in cells("cpu") if cell.needs]
    stressed_cells = [cell for cell in looks if cell.settings["stress"]]
    assert {cell.key for cell in stressed_cells} == {f"hd16-bf16-s{seed}" for seed in range(5)}
    assert {need.partition("/")[0] for cell in stressed_cells for need in cell.needs} == {"grid"}


def test_without_a_dose_the_model_is_as_it_was(model):
    for kind, (doses, names) in STRESS.items():
        natural = look(under(model, names[0]), IMAGES, MASKS)
        same = look(stressed(model, names[0], kind, doses[0]), IMAGES, MASKS)
        assert same["projection"] == pytest.approx(natural["projection"], rel=1e-5)


def test_larger_logits_have_larger_errors_at_the_same_ratio(model):
    small, large = (
        look(stressed(model, "nvfp4", "logit-growth", dose), IMAGES, MASKS)["projection"]
        for dose in (1.0, 8.0)
    )
    assert large["logit_std"] == pytest.approx(8 * small["logit_std"], rel=0.15)
    assert large["error_nats"] == pytest.approx(8 * small["error_nats"], rel=0.3)
    assert large["snr_db"] == pytest.approx(small["snr_db"], abs=1.5)


def test_an_offset_of_the_keys_keeps_the_function_and_costs_the_products(model):
    natural, moved = (
        look(stressed(model, EVERYWHERE.name, "key-offset", dose), IMAGES, MASKS)
        for dose in (0.0, 128.0)
    )
    before, after = natural["predictions"], moved["predictions"]
    assert after["auprc_reference"] == pytest.approx(before["auprc_reference"], abs=1e-3)
    assert moved["products"]["snr_db"] < natural["products"]["snr_db"] - 6
