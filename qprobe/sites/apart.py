"""Computing that is no part of what a model computes."""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode


def apart(look: Callable[[], None]) -> None:
    """Call ``look`` so that what it computes is no part of what the model computes.

    TorchScript, which also exports to ONNX, records what it sees: while it does, nothing is called.
    """
    if torch._C._get_tracing_state() is not None:  # noqa: SLF001
        return
    with torch.no_grad(), torch._C.DisableTorchFunction():  # noqa: SLF001
        if _get_current_dispatch_mode() is None:
            look()
        else:
            # Selective checkpointing counts operations; the receiver's are not the model's.
            with _disable_current_modes():
                look()
