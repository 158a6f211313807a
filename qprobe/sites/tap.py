"""A name for a tensor that nothing else can name."""

from torch import Tensor, nn

from qprobe.errors import InputError


class Tap(nn.Module):
    """An identity that names a tensor: its value forward, its gradient backward.

    What comes out is a copy, so the gradient seen here is the one that flows back through this tap,
    without the other uses of the same tensor, and what follows may write in place. (The hooks of a
    mere view would be lost then.) Numbers are unchanged, and a compiled model has no graph break.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 4), Tap("hidden"), nn.Linear(4, 2))
    >>> model[1]
    Tap('hidden')
    >>> x = torch.ones(1, 4)
    >>> torch.equal(model[1](x), x)
    True
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if not name or not name.isprintable() or any(sign in name for sign in " /."):
            raise InputError(
                f"a tap is named by one word without a dot or a slash, got {name!r}; "
                "the path of its module is put before it."
            )
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """``x``, value for value."""
        if not isinstance(x, Tensor):
            raise InputError(
                f"the tap {self.name!r} takes one tensor, got {type(x).__name__}; "
                "give each tensor a tap of its own."
            )
        return x.clone()

    def __repr__(self) -> str:
        return f"Tap({self.name!r})"
