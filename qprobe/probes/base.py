"""What a probe is: a question that is asked at sites, and partial answers that merge."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.probes.summary import Summary
from qprobe.quant.products import Setup, first_setup
from qprobe.records.schema import Role
from qprobe.registry import Registry
from qprobe.sites import Site
from qprobe.sites.attention import Attended


class Field(StrEnum):
    """A part of the shared :class:`~qprobe.probes.summary.Summary` that a probe reads."""

    MOMENTS = "moments"
    TOKENS = "tokens"
    HISTOGRAM = "histogram"
    NVFP4 = "nvfp4"
    INT4 = "int4"


class State(Protocol):
    """A partial result over calls, micro-batches, steps of a window or ranks.

    Everything stays on the tensors' device and nothing is read on the host, until a flush has
    copied it there; then ``scalars`` and ``arrays`` are asked for.
    """

    def merge(self, other: Self) -> Self:
        """What both saw; associative, and exact: never a mean of means."""

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""

    def scalars(self) -> Mapping[str, Tensor]:
        """What is known, as tensors without axes, with ``n``; what is missing has no key."""

    def arrays(self) -> Mapping[str, Tensor]:
        """Histograms and sampled maps, if there are any."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SiteView:
    """What a probe sees of one site: the tensors of one call, or the summary of a window.

    Tensors are detached and the model's own: read them now, change and keep none. A probe that
    ``needs`` other roles than the site's own sees all of them on the same few examples of the
    batch.
    """

    site: Site
    #: The module that owns the site; None for what is computed between modules.
    module: nn.Module | None
    tensors: Mapping[Role, Tensor] = field(default_factory=dict)
    #: What was seen since the last flush, for a probe that needs fields of it.
    summary: Summary | None = None
    #: Queries and keys, at the logits and probabilities of an attention.
    attended: Attended | None = None
    #: There also the linear layers beside it, which make its queries and keys.
    beside: tuple[nn.Module, ...] = ()
    #: The axis of the site's own tensor that holds the channels.
    axis: int = -1
    step: int = 0
    #: What the loss was multiplied with before backward, for gradients: a gradient scaler's scale.
    loss_scale: float = 1.0
    #: A number that differs from look to look, to sample by; the same on all ranks.
    draw: int = 0
    #: What this probe wants to remember of this site until it looks again: tensors, numbers, text,
    #: and lists and tables of them, since a training that is saved saves them too.
    memory: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, role: Role) -> Tensor:
        return self.tensors[role]

    @property
    def tensor(self) -> Tensor:
        """The site's own tensor."""
        return self.tensors[self.site.role]

    @property
    def setup(self) -> Setup | None:
        """The recipe in force at the module and how it is carried out; None in high precision.

        At an attention without one of its own, that of the linear layers beside it.
        """
        return first_setup((self.module, *self.beside))


@runtime_checkable
class Probe(Protocol):
    """A question, asked of every site that it selects.

    With roles in ``needs`` (beside the site's own, which always comes), :meth:`observe` is called
    once for each call of the module, when all of them are known, and what it returns is merged
    until the next flush. With :class:`Field` in ``needs`` it is called once for each flush, with
    the summary of everything since the last one: such a probe costs no read of its own. ``needs``
    holds either roles or fields. ``None`` says that there was nothing to see.

    It runs without gradients, must wait for no device and leave no trace in the model or in the
    global random state.
    """

    @property
    def name(self) -> str:
        """What its records are filed under."""

    @property
    def needs(self) -> frozenset[Role | Field]:
        """Other roles of the same call, or fields of the summary; may be empty.

        Weights and their gradients are read between passes and come without the others.
        """

    def selects(self, site: Site) -> bool:
        """Whether the question makes sense at ``site``."""

    def observe(self, view: SiteView) -> State | None:
        """Look at one call, or at one window."""


@runtime_checkable
class JointProbe(Probe, Protocol):
    """A probe with an answer that takes several sites, such as the branches of one fusion."""

    def join(self, states: Mapping[Site, State]) -> Mapping[Site, State]:
        """More states, from all that this probe has merged by the time of a flush."""


@runtime_checkable
class ChoosingProbe(Probe, Protocol):
    """A probe that sees all the sites it selects before it says which ones it watches."""

    def choose(self, sites: Sequence[Site]) -> Sequence[Site]:
        """Some of the selected sites, which come in the order in which they were discovered."""


@runtime_checkable
class ComparingProbe(Probe, Protocol):
    """A probe that compares a recipe with high precision, and needs one to have a question."""

    def compares(self, site: Site, setup: Setup | None) -> bool:
        """Whether something at ``site`` is quantized, with this recipe in force; None: with none.

        Sites where nothing is are not planned.
        """


def _checked(name: str, obj: object) -> Probe:
    """A probe, or the class of one that takes no argument."""
    made = obj() if isinstance(obj, type) else obj
    if not isinstance(made, Probe):
        raise InputError(
            f"the probe {name!r} is a {type(made).__name__} without name, needs, selects and "
            "observe; see docs/howto/write-a-probe.md."
        )
    if made.name != name:
        raise InputError(
            f"the probe registered as {name!r} calls itself {made.name!r}; make them equal."
        )
    return made


#: Probes by name: built-in ones and those of installed distributions.
PROBES: Registry[Probe] = Registry("qprobe.probes", "probe", _checked)


def named(probes: Iterable[str | Probe]) -> tuple[Probe, ...]:
    """Probes, given as such or by name; two of one name are refused."""
    found = tuple(PROBES.get(one) if isinstance(one, str) else one for one in probes)
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"the probe {name!r} was asked for twice; ask once.")
    return found
