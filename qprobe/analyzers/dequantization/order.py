"""In which order layers are measured: what they promise, and what measuring them costs."""

import math
from collections.abc import Mapping, Sequence

#: Of gains every so many is taken by its magnitude.
BY_SIZE = 4


def screen_order(layers: Sequence[str], screen: Mapping[str, float], *, gains: bool) -> list[str]:
    """Layers by falling screen value; those without one first, since nothing is known of them.

    Of gains every fourth is taken by its magnitude: where much changes, first order may have the
    wrong sign, and the layer that costs most would come last.

    >>> screen_order("abc", {"a": 1.0, "b": 2.0}, gains=False)
    ['c', 'b', 'a']
    """
    unknown = [path for path in layers if path not in screen]
    by_value = sorted(screen, key=lambda path: -screen[path])
    if not gains:
        return unknown + by_value
    by_size = sorted(screen, key=lambda path: -abs(screen[path]))
    order: dict[str, None] = {}
    while len(order) < len(screen):
        source = by_size if len(order) % BY_SIZE == BY_SIZE - 1 else by_value
        order[next(path for path in source if path not in order)] = None
    return [*unknown, *order]


def for_the_cost(ranked: Sequence[str], again: Mapping[str, float]) -> list[str]:
    """``ranked`` by place·√again: of two neighbours the one that costs less comes first.

    ``again`` is the share of a pass that is computed again when a layer changes, all of it where it
    is not known. A late layer is nearly free, and four places behind an early one may cost half.

    >>> for_the_cost(["a", "b", "c"], {"a": 1.0, "b": 0.81, "c": 0.09})
    ['c', 'a', 'b']
    """
    places = {path: place for place, path in enumerate(ranked, 1)}
    return sorted(ranked, key=lambda path: places[path] * math.sqrt(again.get(path, 1.0)))
