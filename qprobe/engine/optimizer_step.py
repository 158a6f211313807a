"""One optimizer step of a training: forward, backward, clipping, update."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from qprobe.engine.config import OnNonFinite
from qprobe.engine.data import Batch
from qprobe.engine.evaluation import training_loss
from qprobe.engine.workbench import Workbench


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step gave."""

    loss: float
    #: The norm of the whole gradient before it was clipped.
    grad_norm: float
    #: Why the step left the weights alone.
    nonfinite: str | None


def optimizer_step(bench: Workbench, batch: Batch, seen: Callable[[float], None]) -> Step:
    """Train the model on a batch, in as many parts as gradients are accumulated over.

    ``seen`` is given the loss when gradients are whole and unscaled, and not yet clipped. The
    learning rate stays as it is: whoever calls this moves the schedule.
    """
    bench.model.train()
    bench.optimizer.zero_grad(set_to_none=True)
    kept = _kept(bench)
    loss = _backward(bench, batch)
    bench.scaler.unscale_(bench.optimizer)
    seen(loss)
    grad_norm = _clipped(bench.model, bench.config.clip)
    nonfinite = _nonfinite(bench, loss, grad_norm)
    if not nonfinite:
        bench.scaler.step(bench.optimizer)
    for buffer, before in kept:
        if nonfinite:
            buffer.copy_(before)
    bench.scaler.update()
    return Step(loss=loss, grad_norm=grad_norm, nonfinite=nonfinite)


def _backward(bench: Workbench, batch: Batch) -> float:
    """Accumulate the gradients of a batch, and give its loss."""
    loss, parts = 0.0, bench.config.accumulate
    images, masks = batch.image.to(bench.device), batch.mask.to(bench.device)
    for image, mask in zip(images.chunk(parts), masks.chunk(parts), strict=True):
        with bench.autocast():
            share = training_loss(bench.model(image), mask) * (len(image) / len(batch))
        bench.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        loss += float(share.detach())
    return loss


def _kept(bench: Workbench) -> list[tuple[Tensor, Tensor]]:
    """The buffers that a forward pass may write NaN into, and what they hold before it.

    Running statistics never recover from one NaN, so going on without the step takes them back.
    """
    if bench.config.on_nonfinite is not OnNonFinite.CONTINUE:
        return []
    return [(buffer, buffer.clone()) for buffer in bench.model.buffers()]


def _clipped(model: nn.Module, clip: float | None) -> float:
    """The norm of the whole gradient before it is clipped."""
    if clip is not None:
        return float(nn.utils.clip_grad_norm_(model.parameters(), clip))
    return float(
        nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    )


def _nonfinite(bench: Workbench, loss: float, grad_norm: float) -> str | None:
    """What went wrong in a step; a loss scale that was too large is the scaler's business."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(grad_norm) and not bench.scaler.is_enabled():
        return f"the norm of the gradient is {grad_norm}"
    return None
