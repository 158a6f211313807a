"""Which stored weights have their inputs first, told by the biases beside them."""

from collections import defaultdict
from collections.abc import Mapping

from qprobe.checkpoints import Weight


def inputs_first(weights: Mapping[str, Weight]) -> frozenset[str]:
    """Names of weights ``[in, out, ...]``: transposed convolutions, and the ``Conv1D`` of GPT-2.

    A bias has an element an output. Where both axes are as long it says nothing; then a weight is
    taken as all others of the same number of axes are that have a bias and can be told.

    >>> from qprobe.checkpoints import Layout, Weight
    >>> def stored(**shapes):
    ...     return {
    ...         name.replace("_", "."): Weight(
    ...             name=name, shape=shape, layout=Layout.DENSE, parts={"weight": name}
    ...         )
    ...         for name, shape in shapes.items()
    ...     }
    >>> gpt = stored(fc_weight=(8, 32), fc_bias=(32,), proj_weight=(8, 8), proj_bias=(8,))
    >>> sorted(inputs_first(gpt))
    ['fc.weight', 'proj.weight']
    """
    turned: set[str] = set()
    square: dict[int, set[str]] = defaultdict(set)
    seen: dict[int, set[bool]] = defaultdict(set)
    for name, weight in weights.items():
        shape, bias = weight.shape, weights.get(f"{name.removesuffix('weight')}bias")
        if shape is None or len(shape) < 2 or not name.endswith("weight"):
            continue
        if bias is None or bias.shape not in ((shape[0],), (shape[1],)):
            continue
        if shape[0] == shape[1]:
            square[len(shape)].add(name)
            continue
        first = bias.shape == (shape[1],)
        seen[len(shape)].add(first)
        if first:
            turned.add(name)
    for axes, names in square.items():
        if seen[axes] == {True}:
            turned |= names
    return frozenset(turned)
