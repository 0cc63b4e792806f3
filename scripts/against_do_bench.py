"""Our median against triton's do_bench of the very same calls, by turns: against_do_bench.py OUT.json [NAMES]

Both flush the L2 with 256 MB before each call and take a median over CUDA event pairs.  do_bench is called as its
authors mean it: milliseconds for `warmup` and `rep`, every call a fresh graph, no gradient left to be added to.
It queues call after call for 250 ms, and what draws much power gets to its cap so, and its clock down; we rest between
bursts.  So the card is read while either runs, and do_bench is asked a third time in bursts as short, with rests as
long as ours (the median of BURSTS such medians): what is left between that and ours is no matter of clocks.
Needs a CUDA GPU; what each backend says when it cannot is printed, and the next is taken.
"""

import json
import statistics
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import torch

from attn_lab.core.machine import detect
from attn_lab.measure.gpu_monitor import GpuMonitor, MonitorUnavailable, Nvml
from attn_lab.measure.prepared_case import PreparedCase
from attn_lab.records.record import Measurement
from attn_lab.selfcheck.harness import Harness

ROUNDS = 7
BURSTS = 5
WHO = ("ours", "do_bench", "in bursts")
KERNELS = {
    "naive": "naive.Naive", "sdpa_flash": "sdpa_flash.SdpaFlash", "sdpa_efficient": "sdpa_efficient.SdpaEfficient",
    "sdpa_cudnn": "sdpa_cudnn.SdpaCudnn", "flash2": "flash2.Flash2", "flash4": "flash4.Flash4",
}  # fmt: skip
SEED = ("shape.batch_size=16", "shape.seq_len=1024", "shape.num_heads=32", "shape.emb_dim=2048")
WORDS = ("probe=[accuracy,timing]", "passes=[forward,forward_backward]", "measure.max_samples=100",
         "measure.min_samples=50", "measure.max_seconds=0.2", "measure.settle_seconds=0.1",
         "measure.warmup=10")  # fmt: skip


Seen = dict[str, dict[str, list[float]]]


def compared(path: Harness, name: str, target: str) -> tuple[Seen, Seen]:
    """Milliseconds, and the SM clock meanwhile, by pass and by whose clock."""
    from triton.testing import do_bench

    case = path.case(name, f"attn_lab.backends.{target}", *SEED, *WORDS)
    if reasons := case.backend.unsupported_reasons(case.request, path.machine):
        raise RuntimeError("; ".join(reasons))
    attend = case.backend.prepare(case.request, path.machine)
    prepared: PreparedCase = case.subject.stage(
        case.request, case.backend, attend, path.machine, seed=0, checked_slices=1
    )
    calls = {"forward": prepared.forward, "forward_backward": prepared.forward_backward}
    prepared.answer()  # what compiles does it now
    seen: Seen = {one: {who: [] for who in WHO} for one in calls}
    clocks: Seen = {one: {who: [] for who in WHO[:2]} for one in calls}
    card = None
    with suppress(MonitorUnavailable):  # then nobody tells its clock
        card = Nvml().card(path.machine)
    for turn in range(ROUNDS):
        for who in WHO[:: 1 if turn % 2 else -1]:
            if who == "ours":
                for metric in case.probes["timing"].measure(prepared):
                    assert isinstance(metric, Measurement)
                    one, _, what = metric.name.partition("/")
                    if what in ("time", "sm_clock"):
                        (seen if what == "time" else clocks)[one][who].append(metric.value)
            elif who == "in bursts":
                for one, call in calls.items():
                    medians = []
                    for _ in range(BURSTS):
                        time.sleep(0.05)
                        medians.append(float(do_bench(call, warmup=2, rep=6, return_mode="median")))
                    seen[one][who].append(statistics.median(medians))
            else:
                for one, call in calls.items():
                    with Beside(card) as beside:
                        seen[one][who].append(float(do_bench(call, warmup=100, rep=150, return_mode="median")))
                    clocks[one][who] += beside.clocks
    return seen, clocks


class Beside:
    """Reads the card's SM clock every 20 ms in a thread: do_bench tells nobody when its calls are under way."""

    def __init__(self, card: GpuMonitor | None):
        self.clocks: list[float] = []
        self._card, self._over = card, threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        while self._card is not None and not self._over.wait(0.02):
            clock = self._card.state().sm_clock
            self.clocks += [clock] if clock is not None else []

    def __enter__(self) -> "Beside":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def main(out: str, *names: str) -> int:
    machine = detect("auto")
    if machine.device != "cuda":
        print("against_do_bench: expected a CUDA GPU; got a CPU (nothing was compared)")
        return 0
    path, found, clocks = Harness(machine), {}, {}
    for name, target in ((name, KERNELS[name]) for name in names or KERNELS):
        try:
            found[name], clocks[name] = compared(path, name, target)
        except (RuntimeError, ImportError) as error:  # the other five still count
            print(f"{name}: not compared: {' '.join(str(error).split())[:200]}")
            continue
        for one, seen in found[name].items():
            ours, theirs, bursts = (statistics.median(seen[who]) for who in WHO)
            told = {who: f"{statistics.mean(each):.0f} MHz" for who, each in clocks[name][one].items() if each}
            print(
                f"{name} {one}: ours {ours:.4f} ms, do_bench {theirs:.4f} ms, {100 * (ours / theirs - 1):+.2f} %, "
                f"in bursts {bursts:.4f} ms, {100 * (ours / bursts - 1):+.2f} %", told
            )  # fmt: skip
        torch.cuda.empty_cache()
    Path(out).write_text(
        json.dumps({"machine": machine.as_json(), "rounds": ROUNDS, "ms": found, "sm_clock": clocks}, indent=1)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
