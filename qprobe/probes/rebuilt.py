"""A model whose layers are not those any more that its session was attached to."""

import warnings

from torch import nn

from qprobe.probes.report import some
from qprobe.sites.discover import kind_of


class Rebuilt:
    """Says once that layers have gone, and once that others have come, since it was made.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> rebuilt = Rebuilt(model)
    >>> model[1] = nn.GELU()
    >>> rebuilt.sentences()
    []
    >>> model[0] = nn.Linear(2, 2)
    >>> gone, come = rebuilt.sentences()
    >>> gone.partition(";")[0]
    'no part of the model any more since attach(): 0'
    >>> come
    'come after attach() and not watched: 0; attach again.'
    >>> rebuilt.sentences()
    []
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known = self._layers()
        self._numbers = [id(module) for module in model.modules()]

    def _layers(self) -> dict[nn.Module, str]:
        return {
            module: path
            for path, module in self._model.named_modules()
            if kind_of(module) is not None
        }

    def warn(self) -> None:
        """Warn of what has changed."""
        for sentence in self.sentences():
            warnings.warn(sentence, stacklevel=2)

    def sentences(self) -> list[str]:
        """What has changed since it was last asked; where nothing has, a look at each module."""
        numbers = [id(module) for module in self._model.modules()]
        if numbers == self._numbers:
            return []
        known, now = self._known, self._layers()
        self._known, self._numbers = now, numbers
        gone = [path for module, path in known.items() if module not in now]
        come = [path for module, path in now.items() if module not in known]
        said = []
        if gone:
            said.append(
                f"no part of the model any more since attach(): {some(gone)}; what is recorded of "
                "weights there is of the layers that were, so attach again."
            )
        if come:
            said.append(f"come after attach() and not watched: {some(come)}; attach again.")
        return said
