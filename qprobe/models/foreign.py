"""Models of other people: ``module:factory`` for any import, ``monai:Class`` for MONAI."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from torch import nn

from qprobe.errors import InputError, MissingExtraError, QprobeError, UnknownNameError
from qprobe.models.sizes import refuse_unknown

MONAI = "monai"

#: What MONAI's networks call the number of classes and of input channels, in order of preference.
_CLASSES = ("out_channels", "num_classes", "n_classes", "out_chans")
_CHANNELS = ("in_channels", "in_chans", "n_channels")


def call_factory(
    what: str, factory: Callable[..., object], given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> object:
    """Call ``factory`` with those of ``given`` that it names, and refuse what it would ignore.

    An argument that still has its value in ``defaults`` was not asked for, so a factory need not
    take it; options have no default and must be taken.
    """
    named, open_ended = _parameters(factory)
    if open_ended:
        return factory(**given)
    asked = {k: v for k, v in given.items() if k not in defaults or v != defaults[k]}
    refuse_unknown(what, asked, named)
    return factory(**{name: value for name, value in given.items() if name in named})


def load_factory(reference: str) -> Callable[..., object]:
    """The callable that ``module:factory`` names."""
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise InputError(f"{reference!r} is no module:factory; write it like my_models:make_unet.")
    module = _import(module_name, reference)
    factory: object = module
    for part in attribute.split("."):
        if not hasattr(factory, part):
            near = get_close_matches(part, dir(factory), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "check the spelling."
            raise UnknownNameError(f"{module_name} has no {attribute!r}; {hint}")
        factory = getattr(factory, part)
    if not callable(factory):
        raise InputError(
            f"{reference} is a {type(factory).__name__}, not a function that builds a model."
        )
    return factory


def monai_network(
    class_name: str, geometry: Mapping[str, Any], options: Mapping[str, Any]
) -> object:
    """Build ``monai.networks.nets.<class_name>``, 2-D unless ``spatial_dims`` says otherwise.

    Channels, classes and image size go to the parameters by which the class calls them; an option
    of that name comes first.
    """
    network = _monai_class(class_name)
    named, _ = _parameters(network)
    refuse_unknown(f"monai:{class_name}", options, named)
    arguments: dict[str, Any] = {"spatial_dims": 2} if "spatial_dims" in named else {}
    dimensions = options.get("spatial_dims", 2)
    for names, value in (
        (_CHANNELS, geometry["in_channels"]),
        (_CLASSES, geometry["classes"]),
        (("img_size",), _extent(geometry["image"], dimensions) if "img_size" in named else None),
    ):
        taken = next((name for name in names if name in named), None)
        if taken is not None:
            arguments[taken] = value
    arguments.update(options)
    try:
        return network(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise InputError(
            f"monai:{class_name} refused ({shown}): {error}; give the options it asks for."
        ) from error


def _extent(image: tuple[int, int], dimensions: int) -> tuple[int, ...]:
    if dimensions == len(image):
        return image
    if image[0] != image[1]:
        raise InputError(
            f"an image of {image[0]}x{image[1]} does not say the size in {dimensions} dimensions; "
            "give img_size= as an option."
        )
    return (image[0],) * dimensions


def _monai_class(class_name: str) -> Callable[..., object]:
    try:
        nets = import_module("monai.networks.nets")
    except ImportError as error:
        raise MissingExtraError(
            f"monai:{class_name} needs MONAI, which could not be imported ({error}); "
            "install it with: pip install 'qprobe[medical]'."
        ) from error
    found = getattr(nets, class_name, None)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    classes = [
        name
        for name, value in vars(nets).items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    ]
    near = get_close_matches(class_name, classes, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(classes))}."
    raise UnknownNameError(f"monai.networks.nets has no network {class_name!r}; {hint}")


def _parameters(factory: Callable[..., object]) -> tuple[list[str], bool]:
    """The names ``factory`` can be called with, and whether it takes any other name too."""
    parameters = inspect.signature(factory).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _import(module_name: str, reference: str) -> object:
    if module_name.startswith(".") or "/" in module_name:
        raise InputError(
            f"{reference}: {module_name!r} is a path; give a module, as in my_package.nets:make, "
            "and run with PYTHONPATH set to the folder that holds it."
        )
    try:
        return import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise InputError(
                f"{reference}: there is no module {missing!r}; install it, or run with PYTHONPATH "
                "set to the folder that holds it."
            ) from error
        raise InputError(
            f"{reference}: {module_name} needs the module {missing!r}, which is not installed."
        ) from error
    except Exception as error:
        raise QprobeError(
            f"{reference}: {module_name} could not be imported: {type(error).__name__}: {error}."
        ) from error
