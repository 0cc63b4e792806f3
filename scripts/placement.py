"""Is a kernel as fast wherever its tensors lie? Medians on the same tensors, and on anew placed ones.

Cases of one backend differ by more than their own calls do, in all passes alike, at the same clock.  Either the card
wanders between them, or memory does: a case's tensors lie where its process was given room.  By turns, so that the
card cannot tell the two apart.  Needs a CUDA GPU.
"""

import statistics
import sys

import torch

from attn_lab.core.machine import detect
from attn_lab.sweep.ordinary import Ordinary

TURNS = 6
KERNELS = {"sdpa_cudnn": "sdpa_cudnn.SdpaCudnn", "flash4": "flash4.Flash4"}
WORDS = ("shape.batch_size=16", "shape.seq_len=1024", "shape.num_heads=32", "shape.emb_dim=2048",
         "probe=[accuracy,timing]", "passes=[forward]", "measure.samples=100", "measure.least=100",
         "measure.seconds=0.3", "measure.settle=0.1", "measure.warmup=10")  # fmt: skip


def main() -> int:
    machine = detect("auto")
    if machine.device != "cuda":
        print("placement: expected a CUDA GPU; got a CPU (nothing was compared)")
        return 0
    path = Ordinary(machine)
    for name, target in KERNELS.items():
        case = path.case(name, f"attn_lab.backends.{target}", *WORDS)
        if reasons := case.who.refusals(case.request, machine):
            print(f"! placement {name}: {'; '.join(reasons)[:200]}")
            continue
        attend = case.who.prepare(case.request, machine)

        def staged(case=case, attend=attend):
            return case.what.stage(case.request, case.who, attend, machine, seed=0, slices=1)

        def median(trial, case=case):
            return next(each.value for each in case.probes["timing"].measure(trial) if each.name == "forward/time")

        fixed, seen, room = staged(), {"the same": [], "anew placed": []}, []
        for _ in range(TURNS):
            seen["the same"].append(median(fixed))
            torch.cuda.empty_cache()
            room.append(torch.empty(64 * 2**20 + 2**21 * len(room), dtype=torch.int8, device="cuda"))
            seen["anew placed"].append(median(staged()))
        told = [
            f"{who} tensors {100 * statistics.stdev(each) / statistics.mean(each):.2f} %" for who, each in seen.items()
        ]
        print(f"! placement {name} forward, standard deviation of {TURNS} medians: {', '.join(told)}")
        print({who: [round(value, 5) for value in each] for who, each in seen.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
