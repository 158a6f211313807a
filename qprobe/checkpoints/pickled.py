"""What a pickle asks for, found out without running it.

PyTorch's restricted loader refuses code too, but stops at the first type, lets some through that no
table of weights needs, and does not see a number that allocates. So the instructions are read
first: only tensors, dtypes, ordered tables and plain values may occur.
"""

import pickletools
import re
import warnings
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
_NAMELESS = "a type without a name"


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
    with warnings.catch_warnings():
        # Python warns of odd escapes in names; no name that PyTorch writes has one.
        warnings.simplefilter("error", DeprecationWarning)
        try:
            for module, name in _globals(pickle):
                asked = f"{module}.{name}" if module else name
                if asked not in found and not (module and _harmless(module, name)):
                    found.append(asked)
        except DeprecationWarning as warning:
            raise ValueError(str(warning)) from warning
    return found[:_NAMED]


def _globals(pickle: bytes) -> Iterator[tuple[str, str]]:
    """Module and name of each type asked for; no module where the name can be a disguise."""
    text: list[str] = []
    for instruction, argument, _ in pickletools.genops(pickle):
        if instruction.name in {"GLOBAL", "INST"}:
            module, _, name = str(argument).partition(" ")
            yield module, name
        elif instruction.name == "STACK_GLOBAL":
            # By the last two texts, which are not those on the stack if the pickle pretends:
            # PyTorch writes no such instruction.
            yield "", ".".join(text) or _NAMELESS
        elif instruction.name in {"EXT1", "EXT2", "EXT4"}:
            yield "", _NAMELESS
        elif isinstance(argument, str):
            text = [*text[-1:], argument]


def _harmless(module: str, name: str) -> bool:
    if f"{module} {name}" in _TENSORS or _STORAGE.fullmatch(f"{module} {name}"):
        return True
    return module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
