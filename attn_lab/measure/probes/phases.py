"""Where the time of a step goes: projections, rope, attention, loss, optimizer; forward and backward each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from attn_lab.core.errors import BadRequest
from attn_lab.measure.prepared_case import PreparedCase, Probe
from attn_lab.profiling.annotate import parts
from attn_lab.profiling.recorder import Stage, recorded
from attn_lab.profiling.results import of_phases
from attn_lab.profiling.trace import Trace
from attn_lab.records.artifacts import File
from attn_lab.records.record import Measurement

L2_FLUSH_BYTES = 256 * 2**20  # as before a timed step: else what is read first is read faster than it was timed


@dataclass(frozen=True)
class Phases(Probe):
    """`active` steps, after two that are not looked at: the largest pass asked for.

    phases/DIRECTION/NAME: a part's time in a step, with its share; phases/optimizer, phases/idle: what has no
    direction.  phases/step: all of it.  phases/of_timed: all parts but idle over the time that the clock saw without
    hooks.  On CUDA times are kernels', on the CPU operators' own and Python's within the part.  File: phases.json.
    """

    active: int = 3
    clocks = True
    hooks = True

    def __post_init__(self) -> None:
        if isinstance(self.active, bool) or not isinstance(self.active, int) or self.active < 1:
            raise BadRequest(f"probe.phases.active: expected a whole number of at least 1; got {self.active!r}")

    def measure(self, prepared: PreparedCase) -> Iterator[Measurement | File]:
        name, device = prepared.largest_pass, prepared.machine.device
        before, run = prepared.stages(name)
        path = prepared.scratch / "phases.trace.json.gz"
        with parts(prepared):
            recorded([Stage(name, _cold(before, device), run)], device, path, active=self.active)
        timed = prepared.found.get(f"{name}/time")
        yield from of_phases(Trace(path), name, device, prepared.scratch, self.active, timed.value if timed else None)
        path.unlink()


def _cold(before: Callable[[], Any], device: str) -> Callable[[], Any]:
    """Before a step, and then nothing of it is left in the GPU's cache."""
    if device != "cuda":
        return before
    flush = torch.empty(L2_FLUSH_BYTES, dtype=torch.int8, device=device)

    def prepared() -> Any:
        made = before()
        flush.zero_()
        return made

    return prepared
