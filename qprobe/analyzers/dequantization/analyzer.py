"""Which layer must stay in high precision?"""

from collections.abc import Iterator, Sequence

from qprobe.analyzers.base import Subject
from qprobe.analyzers.dequantization import combine, emit, findings, gradients, single
from qprobe.analyzers.dequantization.emit import Measured, record
from qprobe.analyzers.dequantization.evaluation import Bounds
from qprobe.analyzers.dequantization.heap import keep_freed_memory, long_lived
from qprobe.analyzers.dequantization.layers import evaluating, quantized_layers
from qprobe.analyzers.dequantization.measurement import Measurement
from qprobe.analyzers.dequantization.search import Mode, Search
from qprobe.errors import InputError
from qprobe.quant.remembering import remembering
from qprobe.records.schema import Finding, Record


class Dequantization:
    """Measures what each layer's quantization costs, and reads the answer from the records.

    With ``known`` records of an earlier, interrupted measurement of the same subject, what they
    hold is not measured again, and not yielded again.
    """

    name = emit.PROBE
    reads = frozenset({emit.PROBE})

    def __init__(
        self,
        search: Search | None = None,
        bounds: Bounds | None = None,
        known: Sequence[Record] = (),
    ) -> None:
        self.search = search or Search()
        self.bounds = bounds or Bounds()
        self._known = Measured(known)

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Run the model and yield what was measured; the model is left as it was."""
        layers = quantized_layers(subject.model)
        if not layers:
            raise InputError(
                f"{subject.name} has no quantized layer to put back; convert it first with "
                "qprobe.quant.convert."
            )
        keep_freed_memory()
        measurement = Measurement(subject, layers, (self.search, self.bounds), self._known)
        modules = subject.model.modules()
        with evaluating(subject.model), remembering(modules), long_lived():
            yield from measurement.base()
            with measurement.evaluation.opened():
                yield from measurement.verified_base()
                yield from self._stages(measurement)
            if self.search.sensitivity:
                yield from single.sensitivities(measurement)
            yield from gradients.attribution(measurement)
            for part, passes in measurement.clock.passes().items():
                yield record("", f"passes.{part}", passes)

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """What the records say, most urgent first."""
        return findings.findings(Measured(records))

    def _stages(self, measurement: Measurement) -> Iterator[Record]:
        yield from single.screening(measurement)
        if self.search.mode is Mode.SCREEN:
            return
        yield from single.recoveries(measurement)
        yield from single.operand_recoveries(measurement)
        yield from single.agreement(measurement)
        yield from combine.kinds(measurement)
        yield from combine.cumulative(measurement)
        yield from combine.pairs(measurement)
