import pickle
from collections import OrderedDict
from fractions import Fraction

import pytest

from qprobe.checkpoints.pickled import refused


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_types_are_seen_in_every_protocol(protocol):
    content = {"text": "a", "more": ["b", "c"], "type": Fraction, "kept": OrderedDict()}
    asked = refused(pickle.dumps(content, protocol))
    assert asked[0] == "fractions.Fraction"
    # Only in the protocols that PyTorch writes is a name known to be no disguise.
    assert ("collections.OrderedDict" in asked) is (protocol >= 4)


def test_at_most_three_are_named_each_once():
    types = [int, int, str, float, bytes, list]
    assert len(refused(pickle.dumps(types, 2))) == 3


def test_an_extension_registered_elsewhere_is_refused():
    assert refused(b"\x80\x02\x82\x01.") == ["a type without a name"]


def test_a_type_whose_name_is_taken_from_the_memo_is_refused():
    # "posix", "system" memoised early, fetched by BINGET right before STACK_GLOBAL.
    hidden = b"\x80\x04\x8c\x05posix\x940\x8c\x06system\x940h\x00h\x01\x93."
    assert refused(hidden) == ["posix.system"]


def test_a_harmless_name_put_before_the_real_one_disguises_nothing():
    decoy = b"\x8c\x05torch0\x8c\x04Size0"
    hidden = b"\x80\x04\x8c\x05posix\x940\x8c\x06system\x940" + decoy + b"h\x00h\x01\x93."
    assert refused(hidden) == ["torch.Size"]


def test_nonsense_is_no_pickle():
    with pytest.raises(ValueError, match="opcode"):
        refused(b"\xff")


def test_an_odd_escape_in_a_name_is_nonsense_too():
    with pytest.raises(ValueError, match="escape"):
        refused(b"\x80\x02ctorch\n\\Uize\n.")
