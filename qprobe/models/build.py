"""One call for every model: a registered architecture, ``module:factory`` or ``monai:Class``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from qprobe.errors import InputError
from qprobe.models.foreign import MONAI, call_factory, load_factory, monai_network
from qprobe.models.sizes import check_counts
from qprobe.registry import Registry

Factory = Callable[..., object]

#: What :func:`build` assumes; a factory need not take an argument that still has this value.
DEFAULTS: dict[str, Any] = {
    "size": "500k",
    "image": (64, 64),
    "in_channels": 3,
    "classes": 1,
    "patch": None,
}


def _factory(name: str, obj: object) -> Factory:
    if not callable(obj):
        raise InputError(
            f"the architecture {name!r} is a {type(obj).__name__}, not a function that builds one."
        )
    return obj


#: Functions ``(size, *, image, in_channels, classes, patch, **options) -> nn.Module`` by name;
#: ``image`` is (height, width), and a function leaves out what it has no use for.
ARCHITECTURES: Registry[Factory] = Registry("qprobe.architectures", "architecture", _factory)


def build(  # noqa: PLR0913 - the arguments of a model, all but the name with a default
    name: str,
    size: str = "500k",
    *,
    image: int | tuple[int, int] = 64,
    in_channels: int = 3,
    classes: int = 1,
    patch: int | None = None,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """Build a model whose initial weights depend on these arguments and nothing else.

    ``name`` is a registered architecture (``cnn``, ``vit``, ``swin`` and those of installed
    distributions), ``module:factory`` for any importable function, or ``monai:SwinUNETR`` for any
    network of MONAI. ``image`` is a side or (height, width) in pixels. ``patch=None`` takes 16 at
    256, 8 at 128 and 4 at 64. ``options`` go to the architecture by name; one that it does not take
    is an error. The global random state is the same before and after.

    >>> model = build("cnn", "500k", image=256)
    >>> sum(p.numel() for p in model.parameters())
    530753
    """
    sides = tuple(image) if isinstance(image, Sequence) else (image, image)
    if len(sides) != 2:
        raise InputError(f"image is a side or (height, width) in pixels, got {image!r}.")
    check_counts("image", {"height": sides[0], "width": sides[1]})
    given = {
        "size": size,
        "image": sides,
        "in_channels": in_channels,
        "classes": classes,
        "patch": patch,
    }
    with seeded(seed):
        made = _make(name, given, options)
    if isinstance(made, nn.Module):
        return made
    raise InputError(f"{name} returned a {type(made).__name__}, not a torch.nn.Module.")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's CPU generator started from ``seed`` inside, and as it was before outside.

    Initializers of foreign models draw from the global generator, so an explicit one cannot reach
    them. Models are built on the CPU: other devices' generators are not touched.
    """
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


def in_high_precision(model: nn.Module) -> tuple[str, ...]:
    """The globs of module paths that ``model`` asks to keep in high precision by default."""
    keep: object = getattr(model, "qprobe_keep", ())
    if not isinstance(keep, tuple) or not all(isinstance(glob, str) for glob in keep):
        raise InputError(
            f"qprobe_keep of {type(model).__name__} is {keep!r}; make it a tuple of globs."
        )
    return keep


def _make(name: str, given: dict[str, Any], options: dict[str, Any]) -> object:
    clash = sorted(given.keys() & options.keys())
    if clash:
        raise InputError(f"{name}: {clash[0]} is given twice.")
    if ":" not in name:
        return call_factory(name, ARCHITECTURES.get(name), given | options, DEFAULTS)
    prefix, _, rest = name.partition(":")
    if prefix == MONAI:
        for argument in ("size", "patch"):
            if given[argument] != DEFAULTS[argument]:
                raise InputError(
                    f"{name} has no {argument}; give the options of the MONAI class instead."
                )
        return monai_network(rest, given, options)
    return call_factory(name, load_factory(name), given | options, DEFAULTS)
