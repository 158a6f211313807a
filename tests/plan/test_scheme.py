import pytest

from qprobe.errors import InputError
from qprobe.plan.scheme import Integer, Nvfp4, scheme
from qprobe.quant import IntFormat, recipe, recipes


@pytest.mark.parametrize("name", [one.name for one in recipes() if one.quantizes])
def test_every_built_in_recipe_is_read_as_what_it_is(name):
    fprop = recipe(name).fprop
    found = scheme(name, "modelopt")
    assert fprop.a is not None
    assert fprop.b is not None
    if isinstance(found, Integer):
        form = fprop.b.format
        assert isinstance(form, IntFormat)
        assert form.largest == 2 ** (found.bits - 1) - 1
        assert str(fprop.a.granularity) == found.granularity
    else:
        assert str(fprop.b.format) == "nvfp4"
        assert found.rotated == (fprop.hadamard is not None)


@pytest.mark.parametrize("name", ["bf16", "mine", "nvfp4x", "int5-tensor", "int8"])
def test_others_are_refused(name):
    with pytest.raises(InputError, match=f"modelopt has no counterpart of the recipe '{name}'"):
        scheme(name, "modelopt")


def test_families():
    assert scheme("nvfp4-2d-rht-sr", "te") == Nvfp4()
    assert Integer(8, "tensor").per_tensor
    assert not Integer(8, "channel-token").per_tensor
