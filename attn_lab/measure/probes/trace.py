"""Which kernels make up a pass, and for how long: torch's profiler over a few steps, its trace kept for Perfetto."""

from collections.abc import Iterator
from dataclasses import dataclass

from attn_lab.core.errors import BadRequest
from attn_lab.measure.prepared_case import PreparedCase, Probe
from attn_lab.profiling.recorder import Stage, recorded
from attn_lab.profiling.results import of_kernels
from attn_lab.profiling.trace import Trace as Seen
from attn_lab.records.artifacts import File
from attn_lab.records.record import Measurement


@dataclass(frozen=True)
class Trace(Probe):
    """`active` runs of each pass, after two that are not looked at; on the CPU operators stand for kernels.

    PASS/kernels: launches.  PASS/kernel_time: of all of them together, per run.  PASS/attention_kernels: of that, what
    the kernels take that the kernel check recognises.  PASS/busy: of the time from the first kernel's start to the
    last's end, what they fill; the rest waits for the host.  Files: trace.json.gz, kernels.json.
    """

    active: int = 2
    clocks = True
    hooks = True

    def __post_init__(self) -> None:
        if isinstance(self.active, bool) or not isinstance(self.active, int) or self.active < 1:
            raise BadRequest(f"probe.trace.active: expected a whole number of at least 1; got {self.active!r}")

    def measure(self, prepared: PreparedCase) -> Iterator[Measurement | File]:
        path, device = prepared.scratch / "trace.json.gz", prepared.machine.device
        stages = [Stage(name, *prepared.stages(name)) for name in prepared.passes]
        recorded(stages, device, path, active=self.active)
        yield File("trace", path)
        declared = {name: _declared(prepared, name) for name in prepared.passes}
        yield from of_kernels(Seen(path), declared, device, prepared.scratch, self.active)


def _declared(prepared: PreparedCase, name: str) -> list[str]:
    """Patterns of the backend's kernels in this pass; a step has both."""
    alone = name in prepared.backend.kernels
    return [pattern for each, pattern in prepared.backend.kernels.items() if name == each or not alone]
