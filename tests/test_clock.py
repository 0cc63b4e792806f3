"""Calls that a GPU began before their host had queued them whole: made again, or said of the number."""

import time

import numpy as np
import pytest
import torch

from attn_lab.measure.probes._clock import CudaClock
from attn_lab.measure.probes._watched import Watched
from attn_lab.measure.probes.time_variants import TimeVariants
from attn_lab.measure.probes.timing import Timing
from attn_lab.selfcheck.fake_gpu import SOUND, Recording


class Host(CudaClock):
    """A GPU's clock without one: a call takes a millisecond, or as long as the host, which needs what `stalls` says of
    that call, is later than the GPU that waits for it."""

    def __init__(self, stalls) -> None:
        super().__init__(hot=True)
        self._stalls, self.made = stalls, 0

    def warm(self, before, timed, count, seconds):
        return super().warm(before, lambda _: time.sleep(1e-4), 5, seconds)

    def _queued(self, before, timed, count, meanwhile):
        calls = []
        for _ in range(count):
            behind = self._stalls(self.made) - self._cushion
            self.made += 1
            calls.append((max(1.0, behind), behind > 0))
        meanwhile()
        return calls


@pytest.mark.parametrize(
    ("stalls", "late", "behind"),
    [(lambda call: 0.1, False, False), (lambda call: 9.0 * (call % 20 == 7), True, False),
     (lambda call: 3.0, True, False), (lambda call: 9.0 * (call % 2), True, True)],
    ids=["in time", "seldom", "always, and can be waited for", "often, and cannot"],
)  # fmt: skip
def test_a_call_that_waited_for_its_host_is_made_again_and_where_all_do_that_is_said(stalls, late, behind):
    clock = Host(stalls)
    card = Recording([SOUND])
    timing = Timing(warmup=0, settle_seconds=0.0, max_samples=4000, min_samples=60, max_seconds=60.0, precision=2.0)
    calls = timing._sample(clock, Watched(card, 0.9), lambda: None, lambda _: None)
    assert calls.taken >= 60 and bool(clock.late) == late and bool(clock.behind) == behind
    assert (max(calls.sound) == 1.0) != behind
    assert clock.made == calls.taken + clock.late
    assert len(list(calls.measurements("forward"))) > 1  # one reading a batch, however often its calls are made again


def test_the_other_kinds_of_time_are_marked_by_the_same_rule():
    kinds, stalls = (
        TimeVariants(calls=60, seconds=1.0),
        {"sound": lambda call: 0.1, "late": lambda call: 9.0 * (call % 2)},
    )
    notes = {name: kinds._clocked(Host(each), lambda: None, lambda _: None, 60)[1] for name, each in stalls.items()}
    assert notes["sound"] == "" and notes["late"].startswith("noisy: the host was late with ")


@pytest.mark.gpu
@pytest.mark.parametrize("stall", [0.002, 0.02], ids=["can be waited for", "cannot"])
def test_a_gpu_s_calls_that_waited_for_their_host_do_not_count_unseen(stall):
    """Two short kernels, and from the tenth call on a host that rests between them."""
    ones, made = torch.ones(1024, device="cuda"), 0

    def timed(_):
        nonlocal made
        made += 1
        result = ones * 2
        if made > 10:
            time.sleep(stall)
        return result * 2

    sound, clock = CudaClock(), CudaClock()
    sound.warm(lambda: None, lambda _: ones * 2 * 2, 10, 1.0)
    expected = float(np.median(sound.time(lambda: None, lambda _: ones * 2 * 2, 40, lambda: None)))
    assert sound.behind == 0
    clock.warm(lambda: None, timed, 10, 1.0)
    times = clock.time(lambda: None, timed, 40, lambda: None)
    assert clock.late > 0 and len(times) == 40
    if stall > 0.005:
        assert clock.behind == 40
    else:
        assert clock.behind == 0 and max(times) < 4 * expected


STALLS = """
import time

from attn_lab.backends.sdpa_math import SdpaMath


class Stalls(SdpaMath):
    made = 0

    def prepare(self, request, machine):
        sound = super().prepare(request, machine)

        def attend(*inputs):
            Stalls.made += 1
            out = sound(*inputs)
            if Stalls.made > 20:
                time.sleep(0.02)
            return out * 1

        return attend
"""


@pytest.mark.gpu
def test_what_a_late_host_has_done_to_a_time_is_said_of_it(door, tmp_path, monkeypatch):
    (tmp_path / "stalls.py").write_text(STALLS)
    (tmp_path / "conf/backend").mkdir(parents=True)
    (tmp_path / "conf/backend/stalls.yaml").write_text("_target_: stalls.Stalls\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ("device=cuda", "passes=[forward]", "probe=[accuracy,timing]", "measure.settle_seconds=0",
             "measure.warmup=5", "measure.min_samples=40", "measure.max_samples=40",
             "measure.max_seconds=5")  # fmt: skip
    sound, stalled = (door(*words, "--config-dir", "conf", f"backend={name}").records[-1]["metrics"]
                      for name in ("sdpa_math", "stalls"))  # fmt: skip
    assert "the host was late" not in sound["forward/time"]["note"]  # it may have been, but for a call or two
    assert (
        stalled["forward/host_late"]["value"] > 20
        and "noisy: the host was late with" in stalled["forward/time"]["note"]
    )
