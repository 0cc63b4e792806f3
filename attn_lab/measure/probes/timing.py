"""How long a pass takes: one CUDA event pair a call over a flushed L2, on the CPU wall clock, until that is certain."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from attn_lab.core.errors import BadRequest
from attn_lab.measure.gpu_monitor import GpuMonitor, MonitorSource, MonitorUnavailable, Nvml
from attn_lab.measure.prepared_case import PreparedCase, Probe
from attn_lab.measure.probes._clock import (
    Before,
    Clock,
    CudaClock,
    Timed,
    WallClock,
    host_bound_note,
    precision,
    quantile,
    summed,
)
from attn_lab.measure.probes._watched import Watched
from attn_lab.records.record import Measurement

PATIENCE = 2.0  # times `max_seconds`: so long it waits for the `min_samples` calls, where each takes very long
AGREES = 5.0  # %: so close to their passes are 85 of the 87 steps longer than 1 ms in results/h100-2026-11-22-seed


@dataclass(frozen=True)
class Timing(Probe):
    """Median with p05 and p95 of single calls, after `warmup` of them, and more until `settle_seconds` are over.

    Settling is by time, not until batches agree: a card that rested agrees with itself at boost clock for as long as
    its power regulator takes to step in, overshoots then, and only after 0.3 s has a clock that it keeps.
    Calls follow each other as closely as may be, until the card says that it is at its power cap: its clock is then
    what its regulator has wandered to, and cases are 2 % apart (docs/design/measuring.md).  From there on they come in
    short bursts, each followed by a rest of `rest_ratio` times as long, so that it keeps its own clock.  The pass
    begins again, and PASS/rest_ratio says so.  With rest_ratio=0 it never rests, as in training; the probe `energy` has
    that time beside this one. Calls go on until the 95 % interval of their median lies within `precision` % of it: at
    least `min_samples` of them, at most `max_samples`, and for no longer than `max_seconds` (twice that for the first
    `min_samples`). PASS/precision is what was reached.  A pass that compiles while the clock runs fails the case.
    forward_backward/sum_gap is how much longer a step takes, in %, than its passes alone; more than noise explains is a
    mark on its time: either the clock saw something else (work done after it stopped), or the passes differ in what
    they find in caches and allocators.

    On a GPU the card is read once for every ten calls, while it works: PASS/sm_clock, memory_clock, power, temperature.
    Calls under a clock throttled by heat or power brake, or below `clock_share` of the pass's own median, are dropped:
    PASS/dropped counts them.  Too many of those, or another process on the card, is a mark on every time.
    A call that the GPU began before its host had queued the whole of it has timed the host, and is made again;
    PASS/host_late counts them, and where even a GPU that waits longer has to wait for the host, that is a mark, too.
    """

    warmup: int
    settle_seconds: float
    max_samples: int
    min_samples: int
    max_seconds: float
    precision: float
    rest_ratio: float = 3.0
    clock_share: float = 0.9
    gpu_monitor: MonitorSource = field(default_factory=Nvml)
    clocks = True

    def __post_init__(self) -> None:
        for name, value, floor in (
            ("warmup", self.warmup, 0),
            ("min_samples", self.min_samples, 1),
            ("max_samples", self.max_samples, 1),
        ):
            if value < floor:
                raise BadRequest(f"measure.{name}: expected at least {floor}; got {value}")
        if self.min_samples > self.max_samples:
            raise BadRequest(
                f"measure.min_samples: expected at most measure.max_samples={self.max_samples}; got {self.min_samples}"
            )
        for name, number in (("max_seconds", self.max_seconds), ("precision", self.precision)):
            if not number > 0:
                raise BadRequest(f"measure.{name}: expected more than 0; got {number}")
        for name, number in (("settle_seconds", self.settle_seconds), ("rest_ratio", self.rest_ratio)):
            if not 0 <= number < math.inf:
                what = "seconds" if name == "settle_seconds" else "times a burst"
                raise BadRequest(f"measure.{name}: expected {what}, 0 or more; got {number}")
        if not 0 <= self.clock_share <= 1:
            raise BadRequest(f"probe.timing.clock_share: expected 0 to 1; got {self.clock_share}")

    def measure(self, prepared: PreparedCase) -> Iterator[Measurement]:
        clock: Clock = CudaClock() if prepared.machine.device == "cuda" else WallClock()
        card, why = self._card(prepared)
        if why:
            yield Measurement(name="monitor/unavailable", value=1, unit="", note=why)
        for name in prepared.passes:
            with torch.compiler.set_stance("fail_on_recompile"):
                begun = time.perf_counter()  # not before: the first to set a stance waits for imports
                calls = self._sample(clock, Watched(card, self.clock_share), *prepared.stages(name))
            spent = time.perf_counter() - begun
            times = calls.sound
            reached = calls.precision
            short = "" if reached <= self.precision else f"not within {self.precision:g} % when the measure was full"
            rate = prepared.flops[name] / 1e9  # FLOP per ms → TFLOP/s
            alone = [prepared.found[each] for each in ("forward/time", "backward/time") if each in prepared.found]
            gap = Gap(times, *(each.series for each in alone)) if name == "forward_backward" and alone[1:] else None
            others = list(card.others()) if card else []
            shared = f"{', '.join(others)} on this GPU as well" * bool(others)
            marks = [gap.mark if gap else "", calls.mark, host_bound_note(clock, calls.taken), shared]
            note = f"noisy: {'; '.join(filter(None, marks))}" if any(marks) else ""
            seen = Measurement(**summed(f"{name}/time", times, note), series=times)
            yield seen
            if gap:
                yield Measurement(name=f"{name}/sum_gap", value=gap.percent, unit="%", samples=len(times))
            if math.isfinite(reached):
                yield Measurement(name=f"{name}/precision", value=reached, unit="%", samples=len(times), note=short)
            yield Measurement(
                name=f"{name}/tflops", value=rate / seen.value, unit="TFLOP/s", low=rate / (seen.high or seen.value),
                high=rate / (seen.low or seen.value), samples=len(times),
            )  # fmt: skip
            yield from calls.measurements(name)
            if clock.late or clock.behind:
                yield Measurement(
                    name=f"{name}/host_late", value=clock.late + clock.behind, unit="samples", samples=calls.taken,
                    note=f"the host was late: {clock.late} made again, {clock.behind} count all the same",
                )  # fmt: skip
            if clock.rest:
                yield Measurement(
                    name=f"{name}/rest_ratio", value=clock.rest, unit="times a burst", note="else at its power cap"
                )
            yield Measurement(
                name=f"{name}/seconds", value=spent, unit="s", note="on the clock, warm-up and waiting in"
            )

    def _card(self, prepared: PreparedCase) -> tuple[GpuMonitor | None, str]:
        try:
            return self.gpu_monitor.card(prepared.machine), ""
        except MonitorUnavailable as why:
            return None, str(why)

    def _sample(self, clock: Clock, calls: Watched, before: Before, timed: Timed) -> Watched:
        self._take(clock, calls, before, timed)
        if self._tired(clock, calls):
            clock.rest = self.rest_ratio
            calls = calls.anew()
            self._take(clock, calls, before, timed)
        return calls

    def _tired(self, clock: Clock, calls: Watched) -> bool:
        """Whether the card is at its cap, and was given no rest."""
        return calls.capped and not clock.rest and bool(self.rest_ratio)

    def _take(self, clock: Clock, calls: Watched, before: Before, timed: Timed) -> None:
        settled = time.perf_counter() + self.settle_seconds
        takes = clock.warm(before, timed, self.warmup, self.max_seconds / 2)
        self._settle(clock, calls, settled, takes, before, timed)
        clock.late = clock.behind = 0
        begun, look = time.perf_counter(), self.min_samples
        while calls.taken < self.max_samples and not self._tired(clock, calls):
            left = begun + self.max_seconds * (PATIENCE if calls.taken < self.min_samples else 1) - time.perf_counter()
            if calls.taken and left < 0:
                break
            fits = max(1, int(left / max(takes, 1e-9)))
            count = min(clock.calls_at_once, self.max_samples - calls.taken, fits)
            calls.add(clock.time(before, timed, count, calls.look))
            if calls.taken >= look:  # not each time: an interval that is looked at often is narrow by luck sometimes
                look = math.ceil(1.2 * calls.taken)
                if calls.precision <= self.precision:
                    break

    def _settle(
        self, clock: Clock, calls: Watched, end: float, takes: float, before: Before, timed: Timed
    ) -> None:  # fmt: skip
        """By the clock's own batches: what rests between them is what will rest between those that count.

        Of the card's state the last counts: at first it is that of whatever ran before.
        """
        while (left := end - time.perf_counter()) > 0:
            clock.time(before, timed, min(clock.calls_at_once, max(1, int(left / max(takes, 1e-9)))), calls.glance)


class Gap:
    """How far a step is from the sum of its passes, each timed alone."""

    def __init__(self, step: Sequence[float], forward: Sequence[float], backward: Sequence[float]):
        self.alone = quantile(forward, 0.5) + quantile(backward, 0.5)
        self.percent = 100 * (quantile(step, 0.5) / self.alone - 1)
        self.noise = sum(precision(each) * quantile(each, 0.5) for each in (step, forward, backward)) / self.alone

    @property
    def mark(self) -> str:
        """Empty, or what is wrong: they are further apart than all three intervals together and AGREES."""
        if abs(self.percent) <= AGREES + self.noise:
            return ""
        return f"forward and backward alone add up to {self.alone:.3g} ms, {self.percent:+.0f} % to the step"
