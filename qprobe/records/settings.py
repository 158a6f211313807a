"""Which trainings differ in recipe, seed and fold only, and what such a group is called."""

from collections.abc import Mapping, Sequence

from qprobe.records.schema import Json

#: Settings that tell the runs of one group apart, or that change no result.
WITHIN = ("recipe", "seed", "fold", "checkpoint_every", "hash")
#: Always in a group's title; others only where it would not be unique.
_TITLE = ("arch", "size", "data", "image")


def shared(config: Mapping[str, Json]) -> dict[str, Json]:
    """The settings that all runs of a group have in common.

    >>> shared({"arch": "cnn", "seed": 3, "recipe": "nvfp4"})
    {'arch': 'cnn'}
    """
    return {name: value for name, value in config.items() if name not in WITHIN}


def title(settings: Mapping[str, Json], every: Sequence[Mapping[str, Json]]) -> str:
    """Architecture, size, data and image; where groups share these, what else they differ in.

    >>> one, other = {"arch": "cnn", "lr": 1e-3}, {"arch": "cnn", "lr": 1e-4}
    >>> title(one, [one]), title(one, [one, other])
    ('cnn', 'cnn, lr 0.001')
    """

    def plain(one: Mapping[str, Json]) -> list[str]:
        return [str(one[name]) for name in _TITLE if name in one]

    alike = [other for other in every if plain(other) == plain(settings)]
    differing = [
        f"{name} {value}"
        for name, value in settings.items()
        if any(other.get(name) != value for other in alike)
    ]
    return ", ".join([" ".join(plain(settings)), *differing])
