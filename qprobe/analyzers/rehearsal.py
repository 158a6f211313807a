"""A subject's parts, tried once before anything is measured, so that what fails has a name."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from qprobe.analyzers.base import SlopedScore, Subject, first_item
from qprobe.analyzers.observation import under_recipe, undisturbed
from qprobe.analyzers.own_code import tried
from qprobe.analyzers.wording import listed
from qprobe.errors import InputError
from qprobe.quant.convert import restored

T = TypeVar("T")


def rehearse(subject: Subject) -> None:
    """Refuse a subject whose batches, model, loss, score, groups or some cannot be used.

    They are the caller's code: what they raise is told by the part that raised it. One batch goes
    through the model in high precision, where its loss has to be finite; the model stays as it is.
    """
    batch = _batch(subject)
    model = subject.model
    paths = under_recipe(model)
    with undisturbed(model), restored(model, paths), torch.no_grad():
        with _running(subject, paths):
            output = _output(subject, batch)
        _check_some(subject, batch)
        losses: Any = _tried(subject, "loss", lambda: subject.loss(output, batch))
        score = subject.score
        scored = _tried(subject, "score.of", lambda: np.asarray(score.of(output, batch)))
        if isinstance(score, SlopedScore):
            sloped = score
            gains: Any = _tried(
                subject, "score.gains", lambda: sloped.gains(output, batch, scored.sum(0))
            )
            _check_gains(subject, gains, len(scored))
    if not isinstance(losses, Tensor) or losses.dim() != 1:
        shape = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise InputError(
            f"the loss of {subject.name} is {shape}; return one number a sample, as "
            "reduction='none' and a mean over all other axes give."
        )
    if len(losses) != len(scored):
        raise InputError(
            f"{subject.name} has losses of {len(losses)} samples and scores of {len(scored)} in "
            "one batch; return one of each a sample."
        )
    if not bool(losses.isfinite().all()):
        raise InputError(
            f"the loss of {subject.name} in high precision is NaN or infinite on its first batch, "
            "so four bits cannot be blamed; look at its weights and data first."
        )
    if subject.groups is not None:
        groups = subject.groups
        named = _tried(subject, "groups", lambda: list(groups(batch)))
        if len(named) != len(losses):
            raise InputError(
                f"{subject.name} names {len(named)} groups for {len(losses)} samples; name one a "
                "sample."
            )


def _output(subject: Subject, batch: Any) -> Tensor:
    """What ``forward`` gives, told how to write one where batches or outputs are mappings."""
    if isinstance(batch, Mapping) and subject.forward is first_item:
        raise InputError(
            f"batches of {subject.name} are mappings ({listed(list(map(str, batch)), 4)}), so say "
            "how the model takes one: forward=lambda model, batch: model(input_ids="
            "batch['input_ids']).logits, for instance."
        )
    found: Any = _tried(subject, "forward", lambda: subject.forward(subject.model, batch))
    if not isinstance(found, Tensor):
        raise InputError(
            f"forward of {subject.name} gives a {type(found).__name__}; return the tensor in it "
            "that is judged, such as its logits."
        )
    return found


@contextmanager
def _running(subject: Subject, paths: list[str]) -> Iterator[None]:
    """Refuse a model of whose layers ``paths`` none runs inside: nothing could be said of them."""
    ran = list[nn.Module]()
    with ExitStack() as stack:
        for path in paths:
            hook = subject.model.get_submodule(path).register_forward_pre_hook(
                lambda module, _: ran.append(module)
            )
            stack.callback(hook.remove)
        yield
    if paths and not ran:
        raise InputError(
            f"no quantized layer of {subject.name} ran on its first batch ({listed(paths, 3)}); "
            "call them as modules, or convert those that run."
        )


def _check_some(subject: Subject, batch: Any) -> None:
    """The first sample of a batch, where the subject says how to take it, is one sample."""
    some = subject.some
    if some is None:
        return
    part: Any = _tried(subject, "some", lambda: some(batch, [0]))
    output = _output(subject, part)
    losses: Any = _tried(subject, "loss", lambda: subject.loss(output, part))
    if isinstance(losses, Tensor) and losses.dim() == 1 and len(losses) != 1:
        raise InputError(
            f"some of {subject.name} gives a batch with {len(losses)} losses for one sample; give "
            "the samples with the numbers in the list, such as batch[0][rows]."
        )


def _check_gains(subject: Subject, gains: Any, samples: int) -> None:
    if isinstance(gains, Tensor) and list(gains.shape) == [samples]:
        return
    shape = list(gains.shape) if isinstance(gains, Tensor) else type(gains).__name__
    raise InputError(
        f"gains of the score of {subject.name} is {shape}; return one number a sample, here "
        f"[{samples}]."
    )


def _batch(subject: Subject) -> Any:
    if not callable(subject.batches):
        raise InputError(
            f"batches of {subject.name} is a {type(subject.batches).__name__}; give a function "
            "that returns it, such as lambda: batches."
        )
    one, other = (_tried(subject, "batches", subject.batches) for _ in range(2))
    if one is other and isinstance(one, Iterator):
        raise InputError(
            f"batches of {subject.name} gives the same iterator at every call, which is empty "
            "after the first; return a list, or make the iterator inside."
        )
    found = _tried(subject, "batches", lambda: next(iter(one), None))
    if found is None:
        raise InputError(f"batches of {subject.name} gives no batch; give it validation data.")
    return found


def _tried(subject: Subject, part: str, call: Callable[[], T]) -> T:
    return tried(f"{part} of {subject.name}", call, "on the first batch")
