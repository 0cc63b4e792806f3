"""What rests do for kernels that draw all the power a card may have: rests.py

Medians at 16k tokens, by how many calls a burst has and how many times as long the card rests after it, with the SM
clock and in how many readings the card was at its power cap.  Then whether it matters where tensors lie: steps without
rest, three times on the same tensors and three times on anew placed ones.  Needs a CUDA GPU; two and a half minutes.
"""

import sys
import time

import numpy as np
import torch

from attn_lab.core.machine import detect
from attn_lab.measure.gpu_monitor import CAP, GpuMonitor, Nvml
from attn_lab.measure.prepared_case import PreparedCase
from attn_lab.measure.probes._clock import CudaClock
from attn_lab.selfcheck.harness import Harness

KERNELS = {"sdpa_cudnn": "sdpa_cudnn.SdpaCudnn", "flash4": "flash4.Flash4"}
WORDS = ("shape.batch_size=1", "shape.seq_len=16384", "shape.num_heads=16", "shape.emb_dim=2048", "mask=causal",
         "shape.dtype=bfloat16", "probe=[accuracy,timing]", "passes=[forward,forward_backward]")  # fmt: skip
BURSTS = {1: (0, 3, 8), 3: (0, 1, 3, 8), 10: (0, 1, 3)}  # calls, and times as long as they took
LEAD = 0.7  # s before a call counts


def told(
    prepared: PreparedCase, card: GpuMonitor, name: str, burst: int, rest: float, *, seconds: float, lead: float = LEAD
) -> str:
    clock, (before, timed) = CudaClock(), prepared.stages(name)
    clock.warm(before, timed, 5, 1.0)
    begun, times, states = time.perf_counter(), list[float](), []
    while (now := time.perf_counter()) - begun < lead + seconds:
        seen = clock.time(before, timed, burst, lambda: None)
        took = time.perf_counter() - now
        state = card.state()
        if time.perf_counter() - begun > lead:
            times += seen
            states.append(state)
        time.sleep(rest * took)
    clocks = [state.sm_clock or 0.0 for state in states]
    low, middle, high = np.quantile(times, (0.05, 0.5, 0.95))
    capped = sum(CAP in state.reasons for state in states)
    return (f"{middle:.4f} ms (p05 {low:.4f}, p95 {high:.4f}, {len(times)} calls), SM {min(clocks):.0f} to "
            f"{max(clocks):.0f} MHz, at its power cap in {capped} of {len(states)} readings")  # fmt: skip


def main() -> int:
    machine = detect("auto")
    card = Nvml().card(machine)
    if card is None:
        print("rests: expected a CUDA GPU; got a CPU (nothing was measured)")
        return 0
    path = Harness(machine)
    for backend, target in KERNELS.items():
        case = path.case(backend, f"attn_lab.backends.{target}", *WORDS)
        if reasons := case.backend.unsupported_reasons(case.request, machine):
            print(f"{backend}: {'; '.join(reasons)}")
            continue
        attend = case.backend.prepare(case.request, machine)

        def staged(case=case, attend=attend) -> PreparedCase:
            return case.subject.stage(case.request, case.backend, attend, machine, seed=0, checked_slices=1)

        prepared = staged()
        prepared.answer()  # what compiles does it now
        for name in ("forward", "forward_backward"):
            for burst, rests in BURSTS.items():
                for rest in rests:
                    found = told(prepared, card, name, burst, rest, seconds=1.0 if rest < 8 else 1.5)
                    print(f"{backend} {name}: bursts of {burst}, rest {rest}: {found}", flush=True)
        for turn, where in enumerate(["the same"] * 3 + ["anew placed"] * 3):
            if where == "anew placed":
                del prepared
                torch.cuda.empty_cache()
                room = torch.empty((turn - 2) * 96 * 2**20, dtype=torch.int8, device="cuda")
                prepared = staged()
                del room
            time.sleep(1.0)
            found = told(prepared, card, "forward_backward", 10, 0, seconds=1.5, lead=1.0)
            print(f"{backend} step without rest, {where} tensors: {found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
