"""Watches attentions: samples what their logits are made of, and knows which layers made it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from qprobe.quant.attention import ScaledDotProduct
from qprobe.records.schema import Role
from qprobe.sites.attention import (
    Attended,
    Logits,
    Sampling,
    inputs_of_multihead,
    of_multihead,
    of_product,
)
from qprobe.sites.calls import in_backward
from qprobe.sites.dataflow import first_argument, first_tensor
from qprobe.sites.discover import Owner, linears_beside
from qprobe.sites.hook import Hook
from qprobe.sites.projection import Projections
from qprobe.sites.site import Site, numbered
from qprobe.sites.watch import Wanted

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

ATTENDING = frozenset({Role.ATTN_LOGITS, Role.ATTN_PROBS})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """A sample of one attention, of which nothing is computed before somebody asks."""

    made_of: Logits
    sampling: Sampling
    turn: int
    _made: dict[Role, Tensor] = field(default_factory=dict)

    @property
    def attended(self) -> Attended | None:
        """Queries and keys; None where the model has made the logits itself."""
        return self.made_of if isinstance(self.made_of, Attended) else None

    def tensor(self, role: Role) -> Tensor:
        """Logits, or the probabilities that are their softmax."""
        if role not in self._made:
            with torch.no_grad(), torch._C.DisableTorchFunction():  # noqa: SLF001
                self._made[role] = (
                    self.made_of.logits(self.sampling, self.turn)
                    if role is Role.ATTN_LOGITS
                    else self.tensor(Role.ATTN_LOGITS).softmax(-1)
                )
        return self._made[role]


class Host(Protocol):
    """Who is told, and what is to be sampled."""

    turn: int
    sampling: Sampling

    def deliver(self, site: Site, tensor: Tensor) -> None:
        """Take one tensor."""

    def attend(self, sites: Iterable[Site], attended: Logits) -> None:
        """Take what the logits at ``sites`` are made of."""

    def draw(self, sites: Iterable[Site], drawn: Drawn) -> None:
        """Take a sample of them."""


class Attending:
    """The attentions among ``sites``, and the linear layers that may make their queries and keys.

    While it is armed, calls of those layers are noted until the pass ends: of each its input and
    its output, by which queries and keys are recognised as parts of it.
    """

    def __init__(self, owned: Mapping[str, Owner], sites: Iterable[Site], host: Host) -> None:
        self._host = host
        self._sites = frozenset(site for site in sites if site.role in ATTENDING)
        paths = dict.fromkeys(site.path for site in self._sites)
        layers = (layer for path in paths for layer in linears_beside(path, owned))
        self._layers = tuple(dict.fromkeys(layers))
        self._projections = Projections()
        self._armed = bool(self._sites)
        #: The layers that were found to make queries and keys, of those that are watched.
        self._makers: set[nn.Module | None] = set()
        #: Whether these made all of them in the pass before: then the others need no watching.
        self._complete = self._unknown = False

    def arm(self, sites: frozenset[Site] | None) -> None:
        """Watch if one of ``sites`` is an attention's; None: as if all were given."""
        self._armed = bool(self._sites if sites is None else self._sites & sites)

    def hook(self, model: nn.Module) -> list["RemovableHandle"]:
        """Watch the layers, and the end of a pass of ``model``."""
        if not self._layers:
            return []
        return [
            *(
                one.register_forward_hook(Hook(self._called), with_kwargs=True)
                for one in self._layers
            ),
            model.register_forward_hook(Hook(self._ended), always_call=True),
        ]

    def known(self, made_of: Logits) -> Logits:
        """The same, with the calls that made queries and keys, where they are known."""
        if not isinstance(made_of, Attended) or made_of.projections is not None:
            return made_of
        calls = self._projections.of(made_of.q, made_of.k)
        if calls is None:
            self._unknown = True
            return made_of
        self._makers.update(call.module for call in calls)
        return replace(made_of, projections=calls)

    def called(self, module: nn.Module, wanted: Wanted, index: int, given: tuple[Any, Any]) -> None:
        """An attention was called with these positional and keyword arguments."""
        args, kwargs = given
        sites = [numbered(site, index) for site in wanted.logits]
        if isinstance(module, nn.MultiheadAttention):
            named = inputs_of_multihead(args, kwargs)
            for site in wanted.inputs:
                self._host.deliver(numbered(site, index), named["query"])
            self._multihead(module, sites, named)
        elif isinstance(module, ScaledDotProduct):
            attended, values = of_product(module.scale, args, kwargs)
            for site in wanted.inputs:
                self._host.deliver(site, (attended.q, attended.k, values)[site.index])
            self._host.attend(sites, attended)

    def _multihead(
        self, module: nn.MultiheadAttention, sites: list[Site], given: dict[str, Any]
    ) -> None:
        if not sites:
            return
        compiling, sampling = torch.compiler.is_compiling(), self._host.sampling
        make = partial(of_multihead, module, given, sampling)
        with torch.no_grad(), torch._C.DisableTorchFunction():  # noqa: SLF001
            attended = make(0 if compiling else self._host.turn)
        if compiling:
            self._host.attend(sites, attended)
        else:  # its batch items are the sample already
            every = replace(sampling, samples=None)
            self._host.draw(sites, Drawn(made_of=attended, sampling=every, turn=self._host.turn))

    def _called(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        if torch.compiler.is_compiling() or not self._armed or in_backward():
            return
        if self._complete and module not in self._makers:
            return
        taken, made = first_argument(args, kwargs), first_tensor(output)
        if taken is not None and made is not None:
            self._projections.note(module, taken, made)

    def _ended(self, *_: object) -> None:
        if torch.compiler.is_compiling() or in_backward():
            return
        self._projections.clear()
        self._complete, self._unknown = bool(self._makers) and not self._unknown, False


#: Takes a sample of an attention without asking for more of it than it needs.
Drawing = Callable[[Site, Drawn], None]
