"""What a step's memory is made of: the allocator's history and the largest tensors at the peak."""

import gc
import pickle
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from attn_lab.measure.prepared_case import PreparedCase, Probe
from attn_lab.profiling.annotate import parts
from attn_lab.profiling.memory import MemoryUse, memory_use
from attn_lab.profiling.memory_history import history, lines_of
from attn_lab.profiling.recorder import Stage, profiling, run
from attn_lab.profiling.results import of_memory
from attn_lab.profiling.trace import Trace
from attn_lab.records.artifacts import File
from attn_lab.records.record import Measurement

MB = 2**20


@dataclass(frozen=True)
class Snapshot(Probe):
    """One step of the largest pass asked for, under the profiler and, on CUDA, the allocator's history.

    snapshot/peak is what was seen; snapshot/explained the share of memory/peak (of its own, where that was not
    measured) whose tensors are known: by operator and line, or as what a step is given.  Files: live.json, the largest
    tensors at the peak; on CUDA snapshot.pickle, for pytorch.org/memory_viz.
    """

    hooks = True

    def measure(self, prepared: PreparedCase) -> Iterator[Measurement | File]:
        prepared.scratch.mkdir(parents=True, exist_ok=True)
        use = self._seen(prepared)
        if use is None:
            return
        if prepared.machine.device == "cuda":
            yield File("snapshot", prepared.scratch / "snapshot.pickle")
        timed = prepared.found.get("memory/peak")
        yield from of_memory(use, prepared.scratch, timed.value * MB if timed else None)

    def _seen(self, prepared: PreparedCase) -> MemoryUse | None:
        name, device, path = prepared.largest_pass, prepared.machine.device, prepared.scratch / "snapshot.trace.json.gz"
        stage = Stage(name, *prepared.stages(name))
        options = {"profile_memory": True, "with_stack": True}
        with parts(prepared), profiling(device, path, wait=0, warmup=1, active=1, **options) as profiler:
            run(stage, device)
            profiler.step()
            gc.collect()
            if device == "cuda":
                torch.cuda.synchronize()
                torch._C._cuda_clearCublasWorkspaces()  # as the probe `memory` does: they count as the step's
                torch.cuda.empty_cache()  # … and a block is as large as what was asked for, not as one that was left
            with history(device) as seen:
                run(stage, device)
            profiler.step()
        found = memory_use(Trace(path, python=True), name, device, _given(prepared), lines_of(seen) if seen else None)
        path.unlink()
        if seen:
            with (prepared.scratch / "snapshot.pickle").open("wb") as file:
                pickle.dump(seen, file)
        return found


def _given(prepared: PreparedCase) -> dict[str, int]:
    """Bytes of what a step is given, by name; what lies around it is there for another probe and not counted."""
    given = {f"{name}, given": each.numel() * each.element_size() for name, each in prepared.given.items()}
    return given | ({"what the optimizer remembers": prepared.optimizer_bytes} if prepared.trains else {})
