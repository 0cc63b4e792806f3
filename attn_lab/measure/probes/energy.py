"""What a step costs in joules by the card's own counter, over seconds of work, and how long it takes then."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import torch

from attn_lab.core.errors import BadRequest
from attn_lab.measure.gpu_monitor import GpuMonitor, MonitorSource, MonitorUnavailable, Nvml
from attn_lab.measure.prepared_case import PreparedCase, Probe
from attn_lab.measure.probes._captured import Uncapturable, captured
from attn_lab.records.record import Measurement

BATCH = 0.02  # s of calls between two looks at the counter
STILL = 100  # looks at which it has not moved: it moves every 20 to 100 ms, or never
LESS = "a step's less a forward's; "
LEAST = 2.0  # s under which a counter of such ticks says little


@dataclass(frozen=True)
class Energy(Probe):
    """PASS/energy: joules a call, of the whole card, its idle power included, with a hot L2 and the GPU never waiting:
    replayed as a CUDA graph, or, where that cannot be captured, call after call, as the note then says.

    Between two moves of the counter, `seconds` apart at least, so that no tick is cut.  A backward cannot be run alone:
    its joules are those of a step less those of a forward.  PASS/tflop_per_joule follows; PASS/time_sustained is how
    long a call takes in that loop, ms: as in training, at whatever clock power and heat leave the card then.
    energy/idle is the card's power after a second's rest, once a process.  Nothing here without a card that counts.
    """

    seconds: float
    gpu_monitor: MonitorSource = field(default_factory=Nvml)
    clocks = True

    def __post_init__(self) -> None:
        if not self.seconds >= LEAST:
            raise BadRequest(f"probe.energy.seconds: expected at least {LEAST:g}, or ticks count; got {self.seconds}")

    def measure(self, prepared: PreparedCase) -> Iterator[Measurement]:
        try:
            card = self.gpu_monitor.card(prepared.machine)
        except MonitorUnavailable as why:
            yield Measurement(name="monitor/unavailable", value=1, unit="", note=str(why))
            return
        if card is None or card.joules() is None:
            return
        prepared.synchronize()
        yield Measurement(name="energy/idle", value=_idle(card), unit="W", note="nothing running, 1 s after")
        spent = {}
        for name in _looped(prepared):
            spent[name] = _spent(prepared, card, self.seconds, *_whole(prepared, name))  # no graph outlives its loop
        step, forward = spent.get("forward_backward"), spent.get("forward")
        if "backward" in prepared.passes and step and forward:
            spent["backward"] = Spent(
                step.joules - forward.joules, step.seconds - forward.seconds, step.watts, step.calls, LESS + step.how
            )
        for name in prepared.passes:
            one = spent.get(name)
            if one is None:
                continue
            yield Measurement(name=f"{name}/energy", value=one.joules, unit="J", samples=one.calls,
                              note=f"{one.how}{one.watts:.0f} W on average")  # fmt: skip
            if one.joules > 0:
                rate = prepared.flops[name] / 1e12 / one.joules
                yield Measurement(name=f"{name}/tflop_per_joule", value=rate, unit="TFLOP/J", samples=one.calls)
            yield Measurement(name=f"{name}/time_sustained", value=1e3 * one.seconds, unit="ms", samples=one.calls,
                              note=f"{one.how}call after call for seconds, hot L2")  # fmt: skip


class Spent(NamedTuple):
    joules: float  # a call
    seconds: float  # a call
    watts: float
    calls: int
    how: str = ""


def _looped(prepared: PreparedCase) -> list[str]:
    """What is run again and again for the passes asked."""
    names = [name for name in prepared.passes if name != "backward"]
    if "backward" in prepared.passes:
        names += ["forward", "forward_backward"]
    return list(dict.fromkeys(names))


def _whole(prepared: PreparedCase, name: str) -> tuple[Callable[[], object], str]:
    """A call of a pass, and what must be said of how it is made."""
    (before, timed), how = prepared.stages(name), ""
    if prepared.machine.device == "cuda":
        try:
            before, timed = captured(prepared, name)
        except Uncapturable as why:
            how = f"eager, for it cannot be captured ({why}); "
    return lambda: timed(before()), how


def _spent(
    prepared: PreparedCase, card: GpuMonitor, seconds: float, call: Callable[[], object], how: str
) -> Spent | None:
    """Batches of calls, two of them always under way, until the counter has moved twice, `seconds` apart.

    None where it stands still.
    """
    count, calls, last, still = _batch(prepared, call), 0, card.joules(), 0
    moves: list[tuple[int, float, float]] = []
    pending = _queued(prepared, call, count)
    while len(moves) < 2 or moves[-1][1] - moves[0][1] < seconds:
        following = _queued(prepared, call, count)
        pending()
        calls, now = calls + count, card.joules()
        still = still + 1 if now is None or now == last else 0
        if now is not None and not still:
            moves.append((calls, time.perf_counter(), now))
        last, pending = now, following
        if still > STILL:
            pending()
            return None
    pending()
    (first, begun, before), (end, over, after) = moves[0], moves[-1]
    calls = end - first
    return Spent((after - before) / calls, (over - begun) / calls, (after - before) / (over - begun), calls, how)


def _batch(prepared: PreparedCase, call: Callable[[], object]) -> int:
    """How many calls take BATCH."""
    prepared.synchronize()
    begun = time.perf_counter()
    for _ in range(3):
        call()
    prepared.synchronize()
    return max(1, round(BATCH / ((time.perf_counter() - begun) / 3)))


def _queued(prepared: PreparedCase, call: Callable[[], object], count: int) -> Callable[[], None]:
    """Have `count` calls run; what is returned waits for their end."""
    for _ in range(count):
        call()
    if prepared.machine.device != "cuda":
        return lambda: None
    end = torch.cuda.Event()
    end.record()
    return end.synchronize


@cache
def _idle(card: GpuMonitor) -> float:
    """Watts of a card that has had a second's rest, over the second after it; NaN where the counter stands still."""
    time.sleep(1.0)
    moves: list[tuple[float, float]] = []
    last, still = card.joules(), 0
    while (len(moves) < 2 or moves[-1][0] - moves[0][0] < 1.0) and still <= STILL:
        time.sleep(BATCH / 4)
        now = card.joules()
        still = still + 1 if now is None or now == last else 0
        if now is not None and not still:
            moves.append((time.perf_counter(), now))
        last = now
    if still > STILL:
        return float("nan")
    (start, before), (end, after) = moves[0], moves[-1]
    return (after - before) / (end - start)
