"""Time spent, by part, in units of one plain evaluation of the model in high precision."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class Clock:
    """Adds up processor time (on an accelerator: time until the device is done) by part."""

    def __init__(self, read: Callable[[], float] = time.process_time) -> None:
        self._read = read
        self._spent: dict[str, float] = defaultdict(float)
        self._running: tuple[str, float] | None = None
        #: Seconds of one pass; set by whoever measures it.
        self.unit: float | None = None

    @classmethod
    def of(cls, model: nn.Module) -> "Clock":
        """The clock that fits where ``model`` is."""
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        if device.type == "cpu":
            return cls()

        def until_done() -> float:
            torch.accelerator.synchronize(device)
            return time.perf_counter()

        return cls(until_done)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is inside; parts do not nest."""
        self._running = (name, self._read())
        try:
            yield
        finally:
            self._spent[name] = self.seconds(name)
            self._running = None

    def seconds(self, name: str) -> float:
        """What a part has taken so far, also while it runs."""
        running = self._running is not None and self._running[0] == name
        more = self._read() - self._running[1] if running and self._running else 0.0
        return self._spent[name] + more

    def passes(self) -> Mapping[str, float]:
        """Passes by part; none before the unit is known."""
        if not self.unit:
            return {}
        running = () if self._running is None else (self._running[0],)
        return {
            name: self.seconds(name) / self.unit for name in dict.fromkeys((*self._spent, *running))
        }
