"""Probes for tests: each kind of need once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qprobe.probes.base import ComparingProbe, Field
from qprobe.records.schema import Role
from qprobe.stats import Moments


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Moments of what was seen, and how often."""

    looks: Tensor
    moments: Moments

    def merge(self, other):
        return Seen(looks=self.looks + other.looks, moments=self.moments.merge(other.moments))

    def to(self, device):
        moved = Moments.unpack(self.moments.pack().to(device))
        return Seen(looks=self.looks.to(device), moments=moved)

    def scalars(self):
        one = self.moments
        return {"n": one.n, "looks": self.looks, "mean": one.mean, "m2": one.m2}

    def arrays(self):
        return {"all": self.moments.pack()}


def seen(tensor):
    return Seen(looks=torch.tensor(1), moments=Moments.of(tensor))


class Windowed:
    """Reads the shared summary."""

    name = "windowed"
    needs = frozenset({Field.MOMENTS, Field.HISTOGRAM})

    def selects(self, site):
        return site.role not in (Role.ATTN_LOGITS, Role.ATTN_PROBS)

    def observe(self, view):
        return view.summary


class Alone:
    """Looks at each tensor."""

    name = "alone"
    needs = frozenset()

    def selects(self, site):
        return True

    def observe(self, view):
        assert not view.tensor.requires_grad
        return seen(view.tensor[view.tensor.isfinite()])


class Together:
    """Compares the tensors of one call: its state is of ``Σ dyᵀ x`` against the weight."""

    name = "together"
    needs = frozenset({Role.INPUT, Role.GRAD_OUTPUT, Role.WEIGHT})

    def selects(self, site):
        return (
            site.kind == "linear" and site.role is Role.GRAD_OUTPUT and "out_proj" not in site.path
        )

    def observe(self, view):
        x, dy = view[Role.INPUT].flatten(0, -2), view[Role.GRAD_OUTPUT].flatten(0, -2)
        product = dy.double().T @ x.double()
        assert product.shape == view[Role.WEIGHT].shape
        return seen(product)


PROBES = (Windowed(), Alone(), Together())


def under_a_recipe(probe):
    """A probe that compares a recipe with high precision, told which one; others as they are."""
    return type(probe)(recipe="nvfp4-sr") if isinstance(probe, ComparingProbe) else probe
