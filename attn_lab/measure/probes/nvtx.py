"""Each pass once, between cudaProfilerStart and Stop, its parts and operators as NVTX ranges: for Nsight to look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from attn_lab.measure.prepared_case import PreparedCase, Probe
from attn_lab.profiling.annotate import parts
from attn_lab.profiling.recorder import Stage, run
from attn_lab.records.record import Measurement

WARMUP = 2
MB = 2**20


@dataclass(frozen=True)
class Nvtx(Probe):
    """`attn-lab nsight` runs a case with this alone.  nvtx/passes is how many were marked; none on a CPU.

    PASS/min_bytes is what a pass must move at least, with any backend: what it is given and what it returns.
    """

    hooks = True

    def measure(self, prepared: PreparedCase) -> Iterator[Measurement]:
        device = prepared.machine.device
        shown = prepared.passes if device == "cuda" else ()
        for name in prepared.passes:
            yield Measurement(name=f"{name}/min_bytes", value=prepared.min_bytes(name) / MB, unit="MB")
        stages = [Stage(name, *prepared.stages(name)) for name in shown]
        for stage in stages * WARMUP:
            run(stage, device)
        if stages:
            ready = [stage.before() for stage in stages]
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
            with parts(prepared), torch.autograd.profiler.emit_nvtx():
                for stage, prepared in zip(stages, ready, strict=True):
                    run(Stage(stage.name, partial(_same, prepared), stage.run), device)
            torch.cuda.profiler.stop()
        yield Measurement(name="nvtx/passes", value=len(shown), unit="passes", note=", ".join(shown) or "no CUDA here")


def _same(prepared: Any) -> Any:
    return prepared
