"""How long a pass takes: one CUDA event pair a call over a flushed L2; on the CPU, wall clock."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from attn_lab.bench.record import Measurement
from attn_lab.bench.trial import Probe, Trial
from attn_lab.core.errors import BadRequest

L2_FLUSH_BYTES = 256 * 2**20  # several times any GPU's L2
CUSHION_CYCLES = (
    500_000  # the GPU waits a quarter of a millisecond, so that the host has queued the call before it starts
)


@dataclass(frozen=True)
class Timing(Probe):
    """Median with p05 and p95 of single calls, after `warmup` of them.

    Takes `samples` calls of each pass, fewer (but at least `least`) where they would outlast `seconds`.
    """

    warmup: int
    samples: int
    least: int
    seconds: float
    clocks = True

    def __post_init__(self) -> None:
        for name, value, floor in (("warmup", self.warmup, 0), ("least", self.least, 1), ("samples", self.samples, 1)):
            if value < floor:
                raise BadRequest(f"measure.{name}: expected at least {floor}; got {value}")
        if self.least > self.samples:
            raise BadRequest(f"measure.least: expected at most measure.samples={self.samples}; got {self.least}")
        if not self.seconds > 0:
            raise BadRequest(f"measure.seconds: expected more than 0; got {self.seconds}")

    def measure(self, trial: Trial) -> Iterator[Measurement]:
        clock = _CudaClock() if trial.machine.device == "cuda" else _WallClock()
        for name in trial.passes:
            times = self._sample(clock, *_stages(trial, name))
            median = statistics.median(times)
            low, high = _percentile(times, 0.05), _percentile(times, 0.95)
            rate = trial.flops[name] / 1e9  # FLOP per ms → TFLOP/s
            yield Measurement(name=f"{name}/time", value=median, unit="ms", low=low, high=high, samples=len(times))
            yield Measurement(
                name=f"{name}/tflops", value=rate / median, unit="TFLOP/s", low=rate / high, high=rate / low,
                samples=len(times),
            )  # fmt: skip

    def _sample(self, clock: Any, before: Callable[[], Any], timed: Callable[[Any], Any]) -> list[float]:
        for _ in range(self.warmup):
            timed(before())
        times: list[float] = []
        deadline = time.perf_counter() + self.seconds
        while len(times) < self.samples and (len(times) < self.least or time.perf_counter() < deadline):
            count = min(clock.calls_at_once, self.samples - len(times))
            times += clock.time(before, timed, count)
        return times


def _stages(trial: Trial, name: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """What comes before the clock and what it times.  Results are dropped after it has stopped."""
    if name == "backward":
        return trial.forward, trial.backward
    if name == "forward":
        return lambda: None, lambda _: trial.forward()
    return lambda: None, lambda _: trial.forward_backward()


class _WallClock:
    calls_at_once = 1

    def time(self, before: Callable[[], Any], timed: Callable[[Any], Any], count: int) -> list[float]:
        prepared = before()
        start = time.perf_counter()
        result = timed(prepared)
        milliseconds = (time.perf_counter() - start) * 1e3
        del result, prepared
        return [milliseconds]


class _CudaClock:
    calls_at_once = 10  # queued together: the host gets further ahead with each

    def __init__(self) -> None:
        self._flush = torch.empty(L2_FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def time(self, before: Callable[[], Any], timed: Callable[[Any], Any], count: int) -> list[float]:
        pairs = []
        for _ in range(count):
            prepared = before()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda._sleep(CUSHION_CYCLES)
            self._flush.zero_()
            start.record()
            result = timed(prepared)
            end.record()
            del result, prepared
            pairs.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]


def _percentile(values: list[float], share: float) -> float:
    """Linear interpolation between the two nearest ranks."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
