"""Who is taken, and in which order: what layers promise, and what measuring them costs."""

import math
from collections.abc import Mapping, Sequence

#: Of gains every so many is taken by how unsure it is.
BY_ERROR = 4


def screen_order(
    layers: Sequence[str], screen: Mapping[str, float], unsure: Mapping[str, float]
) -> list[str]:
    """Layers by falling screen value; those without one first, since nothing is known of them.

    With the values' standard errors in ``unsure`` every fourth is the one with the largest: where
    samples contradict each other much changes, first order may have the wrong sign, and the layer
    that costs most would come last.

    >>> screen_order("abc", {"a": 1.0, "b": 2.0}, {})
    ['c', 'b', 'a']
    >>> screen_order("abcde", dict(zip("abcde", [5.0, 4.0, 3.0, 2.0, 1.0])), {"e": 9.0})
    ['a', 'b', 'c', 'e', 'd']
    """
    unknown = [path for path in layers if path not in screen]
    by_value = sorted(screen, key=lambda path: -screen[path])
    if not unsure:
        return unknown + by_value
    by_error = sorted(screen, key=lambda path: -unsure.get(path, 0.0))
    order: dict[str, None] = {}
    while len(order) < len(screen):
        source = by_error if len(order) % BY_ERROR == BY_ERROR - 1 else by_value
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


def spread(count: int, of: int) -> list[int]:
    """The last number of each of ``count`` equal stretches of ``of``; all where that is fewer.

    >>> spread(3, 12), spread(2, 5), spread(5, 2)
    ([3, 7, 11], [1, 4], [0, 1])
    """
    return [(n + 1) * of // count - 1 for n in range(count)] if count < of else list(range(of))
