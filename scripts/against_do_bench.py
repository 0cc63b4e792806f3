"""Our median against triton's do_bench of the very same calls, by turns: python scripts/against_do_bench.py OUT.json

Both flush the L2 with 256 MB before each call and take a median over CUDA event pairs.  do_bench is called as its
authors mean it: milliseconds for `warmup` and `rep`, every call a fresh graph, no gradient left to be added to.
Needs a CUDA GPU; what each backend says when it cannot is printed, and the next is taken.
"""

import json
import statistics
import sys
from pathlib import Path

import torch

from attn_lab.bench.trial import Trial
from attn_lab.core.machine import detect
from attn_lab.sweep.ordinary import Ordinary

ROUNDS = 3
KERNELS = {
    "naive": "naive.Naive", "sdpa_flash": "sdpa_flash.SdpaFlash", "sdpa_efficient": "sdpa_efficient.SdpaEfficient",
    "sdpa_cudnn": "sdpa_cudnn.SdpaCudnn", "flash2": "flash2.Flash2", "flash4": "flash4.Flash4",
}  # fmt: skip
SEED = ("shape.batch_size=16", "shape.seq_len=1024", "shape.num_heads=32", "shape.emb_dim=2048")
WORDS = ("probe=[accuracy,timing]", "passes=[forward,forward_backward]", "measure.samples=100", "measure.least=50",
         "measure.seconds=0.3", "measure.warmup=10")  # fmt: skip


def compared(path: Ordinary, name: str, target: str) -> dict[str, dict[str, list[float]]]:
    from triton.testing import do_bench

    case = path.case(name, f"attn_lab.backends.{target}", *SEED, *WORDS)
    if reasons := case.who.refusals(case.request, path.machine):
        raise RuntimeError("; ".join(reasons))
    attend = case.who.prepare(case.request, path.machine)
    trial: Trial = case.what.stage(case.request, case.who, attend, path.machine, seed=0, slices=1)
    calls = {"forward": trial.forward, "forward_backward": trial.forward_backward}
    trial.answer()  # what compiles does it now
    seen: dict[str, dict[str, list[float]]] = {one: {"ours": [], "do_bench": []} for one in calls}
    for turn in range(ROUNDS):
        for who in ("ours", "do_bench")[:: 1 if turn % 2 else -1]:
            if who == "ours":
                for metric in case.probes["timing"].measure(trial):
                    one, _, what = metric.name.partition("/")
                    if what == "time":
                        seen[one][who].append(metric.value)
            else:
                for one, call in calls.items():
                    seen[one][who].append(float(do_bench(call, warmup=50, rep=200, return_mode="median")))
    return seen


def main(out: str) -> int:
    machine = detect("auto")
    if machine.device != "cuda":
        print("against_do_bench: expected a CUDA GPU; got a CPU (nothing was compared)")
        return 0
    path, found = Ordinary(machine), {}
    for name, target in KERNELS.items():
        try:
            found[name] = compared(path, name, target)
        except (RuntimeError, ImportError) as error:  # the other five still count
            print(f"{name}: not compared: {' '.join(str(error).split())[:200]}")
            continue
        for one, seen in found[name].items():
            ours, theirs = (statistics.median(seen[who]) for who in ("ours", "do_bench"))
            print(f"{name} {one}: ours {ours:.4f} ms, do_bench {theirs:.4f} ms, {100 * (ours / theirs - 1):+.2f} %")
        torch.cuda.empty_cache()
    Path(out).write_text(json.dumps({"machine": machine.as_json(), "rounds": ROUNDS, "ms": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
