"""Is the gradient that leaves a module the derivative of what the module computes?"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from qprobe.analyzers.base import Subject
from qprobe.analyzers.measured import Measured
from qprobe.analyzers.observation import under_recipe, undisturbed
from qprobe.analyzers.watched_calls import Call, watched_calls
from qprobe.errors import InputError
from qprobe.quant.convert import restored
from qprobe.records.schema import Array, Cause, Finding, Record, Role, Severity, severity
from qprobe.sites.calls import is_compiled

NAME = "derivatives"
CONTROL = "the same module in high precision, its input moved along the gradient and against it"
REFERENCE = "docs/concepts/diagnosis.md, derivatives"
UNIT = "times between gradient and derivative"
#: From this factor on, both ways, a gradient is told. Healthy modules are within a few per cent:
#: what remains is the bend of the function, which the smaller of two steps takes out.
TOLD = 2.0
#: Steps along the gradient, as shares of the size of the input.
_STEPS = (1e-3, 1.25e-4)
#: What float32 blurs, as a share of the product of the sizes of output and gradient; a change of
#: the output below that says nothing.
_BLUR = 1e-5
#: How exactly a second call has to give what the first one gave.
_REPEATS = 1e-4
#: Bytes of activations and gradients that are copied at once: what a pass keeps. A model that needs
#: more is run once for each time that it fills this.
BUDGET_BYTES = 256 << 20
#: Elements that are widened to float64 at once.
_CHUNK = 1 << 20


class Derivatives:
    """Moves the input of every module along its gradient and compares what that changes.

    A gradient says by how much the loss changes when an input moves. Whether it does can be tried:
    for an input x with gradient g, and v = g/‖g‖, the output y with gradient h has to fulfil
    ‖g‖ = ⟨h, y(x + εv) − y(x − εv)⟩ / 2ε. A tensor that was detached on the way, or a gradient
    that somebody scaled, breaks that, in whatever precision the model is, so all recipes are
    lifted: their straight-through gradients are no derivatives and are meant so.
    """

    name = NAME
    reads = frozenset({NAME})

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        """Copies of activations and gradients take at most ``budget_bytes``, or one module's."""
        if budget_bytes < 1:
            raise InputError(f"budget_bytes is at least 1, got {budget_bytes}.")
        self.budget_bytes = budget_bytes

    def measure(self, subject: Subject) -> Iterator[Record | Array]:
        """Look at the first batch; the model is left as it was."""
        model = subject.model
        if any(is_compiled(module) for module in model.modules()):
            raise InputError("derivatives are not tried in a compiled model; give it uncompiled.")
        with undisturbed(model), restored(model, under_recipe(model)):
            for call in watched_calls(subject, self.budget_bytes):
                tried = call.plain and _repeats(call)
                yield _record(call, "tried", float(tried))
                for position, gradient in call.into.items() if tried else ():
                    yield from _compared(call, position, gradient)

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """One finding a module that breaks the law while none of its parts does."""
        measured = Measured(records, NAME)
        broken: dict[str, tuple[float, float, float]] = {}
        for place in measured.places():
            values = measured.at(place)
            for gradient, derivative in _pairs(values):
                factor = _factor(gradient, derivative)
                if factor >= TOLD and factor >= broken.get(place.site, (0.0,))[0]:
                    broken[place.site] = (factor, gradient, derivative)
        return [
            _finding(site, *found, n=int(measured.value(site, Role.INPUT, "n") or 1))
            for site, found in broken.items()
            if not any(other.startswith(f"{site}.") for other in broken)
        ]


@torch.no_grad()
def _compared(call: Call, position: int, gradient: Tensor) -> Iterator[Record]:
    """Gradient and derivative of one argument; nothing where arithmetic or state hide them."""
    x, size = call.leaves[position], _norm(gradient)
    reach = _norm(_finite(x))
    if not 0.0 < size < math.inf or not reach:
        return
    direction, held = gradient / size, call.held
    blur = sum(_norm(h) * _norm(_finite(call.outputs[at])) for at, h in held)
    found: list[float] = []
    for step in _STEPS:
        length = step * reach
        ahead, behind = (call.again(position, direction * e) for e in (length, -length))
        change = sum(_dot(_finite(ahead[k] - behind[k]), h) for k, h in held) / 2
        del ahead, behind
        if not max(abs(change), size * length) >= _BLUR * blur:  # also of what is not finite
            return
        found.append(change / length)
        if _factor(size, found[-1]) < TOLD:
            break
    derivative = min(found, key=lambda one: _factor(size, one))
    for key, value in (("gradient", size), ("derivative", derivative)):
        yield _record(call, f"argument{position}.{key}", value)
    yield _record(call, "n", float(x.shape[0] if x.dim() else 1))


def _finite(tensor: Tensor) -> Tensor:
    """What is masked holds -inf: its gradient is 0, and it stays where it is."""
    return torch.where(tensor.isfinite(), tensor, 0.0)


def _dot(one: Tensor, other: Tensor) -> float:
    """⟨one, other⟩ in float64, of which never more than a piece is in memory.

    >>> _dot(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]))
    1.0
    """
    a, b = one.flatten(), other.flatten()
    starts = range(0, a.numel(), _CHUNK)
    return sum(float((a[k : k + _CHUNK].double() * b[k : k + _CHUNK]).sum()) for k in starts)


def _norm(tensor: Tensor) -> float:
    return math.sqrt(_dot(tensor, tensor))


def _record(call: Call, key: str, value: float) -> Record:
    return Record("", 0, call.path, Role.INPUT, NAME, key, value)


@torch.no_grad()
def _repeats(call: Call) -> bool:
    """Whether the module does the same again: not if it keeps state or draws numbers."""
    again = call.again()
    return len(again) == len(call.outputs) and all(
        one.shape == other.shape
        and bool((one - other).norm() <= _REPEATS * other.norm().clamp(min=1e-30))
        for one, other in zip(again, call.outputs, strict=True)
        if other.is_floating_point()
    )


def _pairs(values: Mapping[str, float]) -> Iterator[tuple[float, float]]:
    for key, gradient in values.items():
        argument, _, what = key.partition(".")
        derivative = values.get(f"{argument}.derivative")
        if what == "gradient" and derivative is not None:
            yield gradient, derivative


def _factor(gradient: float, derivative: float) -> float:
    """By how much one is larger than the other, from 1; without limit where signs differ.

    >>> _factor(0.5, 2.0), _factor(2.0, 0.5), _factor(1.0, -1.0)
    (4.0, 4.0, inf)
    """
    if gradient * derivative <= 0.0:
        return math.inf
    return max(gradient / derivative, derivative / gradient)


def _finding(site: str, factor: float, gradient: float, derivative: float, n: int) -> Finding:
    less = abs(gradient) < abs(derivative)
    how = f"{factor:.3g} times too {'small' if less else 'large'}"
    return Finding(
        analyzer=NAME,
        claim=f"the gradient that leaves {site} is {how} for what {site} computes",
        cause=Cause.BRANCH_DEAD if less else Cause.NOT_EXPLAINED,
        severity=severity(None, unscored=Severity.WARN),
        sites=(site,),
        roles=(Role.GRAD_OUTPUT, Role.BRANCH),  # of training: no evaluation sees it
        effect=factor,
        unit=UNIT,
        low=factor,
        high=factor,
        n=max(1, n),
        control=CONTROL,
        remedy="look for a detached tensor, a scaled gradient or a custom backward in it; more "
        "bits do not help",
        reference=REFERENCE,
    )
