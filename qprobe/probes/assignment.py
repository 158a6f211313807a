"""Which probe looks where, worked out once when a session starts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.native import Sampled
from qprobe.probes.base import ChoosingProbe, ComparingProbe, Field, JointProbe, Probe
from qprobe.quant.products import first_setup
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.sites.attending import ATTENDING
from qprobe.sites.discover import Owner, linears_beside
from qprobe.sites.site import ROOT

_SAMPLED = {
    Field.HISTOGRAM: Sampled.HISTOGRAM,
    Field.NVFP4: Sampled.NVFP4,
    Field.INT4: Sampled.INT4,
}
_LEARNED = frozenset({Role.WEIGHT, Role.GRAD_WEIGHT})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slot:
    """One probe at one site."""

    probe: Probe
    site: Site
    module: nn.Module | None
    #: Number of the layer, for schedules that take layers in turn.
    layer: int
    #: The other sites of the same call that the probe needs; a weight is not among them.
    companions: tuple[Site, ...] = ()
    #: Whether it needs the module's weight beside them.
    weighted: bool = False
    #: What the summary has to measure for it; None where it looks at tensors itself.
    measure: Sampled | None = None
    #: At an attention: the linear layers beside it.
    beside: tuple[nn.Module, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[Site, ...]:
        """All that has to be watched for it."""
        return (self.site, *self.companions)

    @property
    def replicated(self) -> bool:
        """Whether it looks at a weight, or its gradient, that each process has whole."""
        if self.site.role not in _LEARNED or self.module is None:
            return False
        held = self.module.parameters(recurse=False)
        return not any(hasattr(parameter, "to_local") for parameter in held)

    def __str__(self) -> str:
        return f"{self.probe.name} at {self.site}"


def assign(
    probes: Sequence[Probe],
    sites: Sequence[Site],
    owners: Mapping[str, Owner],
    *,
    available: Sequence[Site] | None = None,
    lenient: bool,
) -> tuple[Slot, ...]:
    """Every probe at every site that it selects and where there is what it needs beside it.

    What it needs is looked for among all that are ``available``; None: among ``sites`` alone. A
    probe that joins sites, such as the branches of one fusion, gets all of these.

    Sites at which a probe would compare a recipe with itself are left out. A probe that selects
    none is an error that names the kinds there are, unless ``lenient``: then it is left out, and it
    is an error if nothing is left.
    """
    layers = {path: number for number, path in enumerate(dict.fromkeys(s.path for s in sites))}
    beside = sites if available is None else available
    places = {(site.path, site.role, site.index): site for site in beside}
    slots: list[Slot] = []
    for probe in probes:
        chosen = [site for site in sites if probe.selects(site)]
        if isinstance(probe, ChoosingProbe):
            chosen = list(probe.choose(chosen))
        if isinstance(probe, JointProbe):
            joined = {(site.path, site.role) for site in chosen}
            chosen = [s for s in beside if probe.selects(s) and (s.path, s.role) in joined]
        at = [_Place.of(site, owners) for site in chosen]
        found = [_slot(probe, place, (layers[place.site.path], places)) for place in at]
        made = [slot for slot in found if slot is not None and _asks(slot)]
        if not any(found) and not lenient:
            raise InputError(_nowhere(f"the probe {probe.name!r} selects", sites))
        if not made and not lenient:
            raise InputError(
                f"no recipe in force quantizes what the probe {probe.name!r} compares; convert the "
                "model first (qprobe.quant.convert), or give the probe a recipe."
            )
        slots += made
    if not slots:
        raise InputError(_nowhere("the probes select", sites))
    return tuple(slots)


def _nowhere(who: str, sites: Iterable[Site]) -> str:
    counts: dict[str, int] = {}
    for site in sites:
        counts[site.kind] = counts.get(site.kind, 0) + 1
    known = ", ".join(f"{kind} ({count})" for kind, count in counts.items()) or "none at all"
    return (
        f"{who} none of the sites, of which there are {known}; choose other sites or probes, or "
        "pass example= to find attention and fusions."
    )


def _asks(slot: Slot) -> bool:
    """Whether the probe has a question there, under the recipe in force."""
    probe, modules = slot.probe, (slot.module, *slot.beside)
    return not isinstance(probe, ComparingProbe) or probe.compares(slot.site, first_setup(modules))


class _Place(NamedTuple):
    """A site, the module that owns it, and at an attention the layers beside it."""

    site: Site
    module: nn.Module | None
    beside: tuple[nn.Module, ...]

    @classmethod
    def of(cls, site: Site, owners: Mapping[str, Owner]) -> "_Place":
        owner = owners.get(site.path)
        module = None if owner is None or site.kind != owner.kind else owner.module
        attends = site.role in ATTENDING and not isinstance(module, nn.MultiheadAttention)
        return cls(site, module, linears_beside(site.path, owners) if attends else ())


def _slot(
    probe: Probe, place: _Place, at: tuple[int, Mapping[tuple[str, Role, int], Site]]
) -> Slot | None:
    site, module, beside = place
    layer, places = at
    fields = [need for need in probe.needs if isinstance(need, Field)]
    roles = [need for need in probe.needs if isinstance(need, Role) and need is not site.role]
    if fields:
        _check_fields(probe, site, roles)
        measure = Sampled.NOTHING
        for one in fields:
            measure |= _SAMPLED.get(one, Sampled.NOTHING)
        return Slot(probe=probe, site=site, module=module, layer=layer, measure=measure)
    passing = [role for role in roles if role is not Role.WEIGHT or site.role in _LEARNED]
    companions = tuple(_companions(probe, site, passing, places))
    weighted = len(passing) < len(roles)
    if None in companions or (weighted and not _has_weight(module)):
        return None
    return Slot(
        probe=probe,
        site=site,
        module=module,
        layer=layer,
        companions=tuple(one for one in companions if one is not None),
        beside=beside,
        weighted=weighted,
    )


def _has_weight(module: nn.Module | None) -> bool:
    """Whether a weight can be read beside a call: not one that each pass computes anew."""
    return module is None or isinstance(getattr(module, "_parameters", {}).get("weight"), Tensor)


def _check_fields(probe: Probe, site: Site, roles: Sequence[Role]) -> None:
    if roles:
        raise InputError(
            f"the probe {probe.name!r} needs {', '.join(roles)} beside fields of a summary; "
            "ask for either roles or fields."
        )
    if site.role in ATTENDING:
        raise InputError(
            f"the probe {probe.name!r} needs a summary of {str(site)!r}, which has no channels; "
            "leave attention to probes that look at it themselves."
        )


def _companions(
    probe: Probe,
    site: Site,
    roles: Iterable[Role],
    places: Mapping[tuple[str, Role, int], Site],
) -> Iterator[Site | None]:
    """The sites of the roles; None for one that this module does not have."""
    for role in roles:
        if site.role in _LEARNED and role not in _LEARNED:
            continue  # read between passes, where there is no call
        if role in _LEARNED and site.role not in _LEARNED:
            raise InputError(
                f"the probe {probe.name!r} needs {role} beside {site.role} of "
                f"{site.path or ROOT!r}, which are not of one call; the weight's gradient of a "
                "call is grad_outputᵀ·input."
            )
        yield places.get((site.path, role, site.index)) or places.get((site.path, role, 0))
