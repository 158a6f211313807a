"""What a pickle asks for, found out without running it.

PyTorch's restricted loader refuses code too, but stops at the first type, lets some through that no
table of weights needs, and does not see a number that allocates. So the instructions are read
first: only tensors, dtypes, ordered tables and plain values may occur.
"""

import pickletools
import re
from collections.abc import Iterator

import torch

_TENSORS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    # Tensors of types that came later, such as float8 and uint16.
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
}
_STORAGE = re.compile(r"torch \w+Storage|torch\.storage (Typed|Untyped)Storage")
#: A pickle holds names, shapes and settings; the elements lie beside it.
LARGEST = 64 * 2**20
#: How many refused types are named.
_NAMED = 3


def refused(pickle: bytes) -> list[str]:
    """The types that ``pickle`` asks for and weights do not need, at most three.

    Raises ``ValueError`` where the bytes are no pickle.

    >>> import pickle
    >>> refused(pickle.dumps({"lr": 0.1}, protocol=2))
    []
    >>> refused(b"cos\\nsystem\\n(S'true'\\ntR.")
    ['os.system']
    """
    found: list[str] = []
    for asked in _globals(pickle):
        if asked in _TENSORS or _STORAGE.fullmatch(asked) or _is_dtype(asked):
            continue
        name = asked.replace(" ", ".")
        if name not in found:
            found.append(name)
    return found[:_NAMED]


def _globals(pickle: bytes) -> Iterator[str]:
    text: list[str] = []
    for instruction, argument, _ in pickletools.genops(pickle):
        if instruction.name in {"GLOBAL", "INST"}:
            yield str(argument)
        elif instruction.name == "STACK_GLOBAL":
            # Module and name are the last two texts, unless the pickle hides them.
            yield " ".join(text[-2:]) if len(text) > 1 else "a type without a name"
        elif instruction.name in {"EXT1", "EXT2", "EXT4"}:
            yield "a type without a name"
        elif isinstance(argument, str):
            text = [*text[-1:], argument]


def _is_dtype(asked: str) -> bool:
    module, _, name = asked.partition(" ")
    return module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
