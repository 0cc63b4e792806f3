"""A sound kernel that takes a known share longer, by a clock where there is one to read, else by a spin."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from attn_lab.core.backend import AttentionFn
from attn_lab.core.machine import Machine
from attn_lab.core.request import Request
from attn_lab.selfcheck.faults import FaultyBackend


@dataclass(frozen=True)
class Slower(FaultyBackend):
    """Each call takes `share` longer than with a share of 0, which has the same clocks about it (some µs).

    On the CPU it waits for that share of the very call it has just made.  A GPU's clock cannot be read from here: there
    it appends a kernel that spins for that share of a call's time, as events showed it in `prepare`.
    """

    share: float = 0.05

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        attend = super().prepare(request, machine)
        if machine.device == "cuda":
            cycles = round(self.share * _cycles_of(attend, request))

            def spin(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                out = attend(q, k, v)
                torch.cuda._sleep(cycles)
                return out

            return spin

        def wait(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            start = time.perf_counter()
            out = attend(q, k, v)
            end = start + (1 + self.share) * (time.perf_counter() - start)
            while time.perf_counter() < end:
                pass
            return out

        return wait


def _cycles_of(attend: AttentionFn, request: Request) -> float:
    """How many cycles of the GPU's clock a call takes: it and a spin of known length by turns, medians of 20."""
    shape, known = request.shape, 2_000_000
    sizes = [(shape.seq_len, shape.num_heads), *2 * [(shape.seq_len_kv, shape.num_kv_heads)]]
    dtype = getattr(torch, shape.dtype)
    q, k, v = (torch.randn(shape.batch_size, *size, shape.head_dim, dtype=dtype, device="cuda") for size in sizes)
    marks = []
    for _ in range(25):
        three = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        three[0].record()
        attend(q, k, v)
        three[1].record()
        torch.cuda._sleep(known)
        three[2].record()
        marks.append(three)
    torch.cuda.synchronize()
    calls, spins = (sorted(t[i].elapsed_time(t[i + 1]) for t in marks[5:])[10] for i in (0, 1))
    return known * calls / spins
