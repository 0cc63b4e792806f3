"""How long a pass takes: one CUDA event pair a call over a flushed L2, on the CPU wall clock, until that is certain."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attn_lab.bench.record import Measurement
from attn_lab.bench.trial import Probe, Trial
from attn_lab.core.errors import BadRequest

L2_FLUSH_BYTES = 256 * 2**20  # several times any GPU's L2
AGREES = 5.0  # %: so close to their passes are 85 of the 87 steps longer than 1 ms in results/h100-2026-11-22-seed
CUSHION_CYCLES = (
    500_000  # the GPU waits a quarter of a millisecond, so that the host has queued the call before it starts
)


@dataclass(frozen=True)
class Timing(Probe):
    """Median with p05 and p95 of single calls, after `warmup` of them.

    Calls go on until the 95 % interval of their median lies within `precision` % of it: `least` of them at least,
    `samples` at most, and for no longer than `seconds`.  PASS/precision is what was reached.  A pass that compiles
    anything anew while the clock runs fails the case.  forward_backward/gap is how much longer a step takes, in %, than
    its passes alone; more than noise explains is a mark on its time: either the clock saw something else (a step
    shorter than the host needs to launch it), or the passes differ in what they find in caches and allocators.
    """

    warmup: int
    samples: int
    least: int
    seconds: float
    precision: float
    clocks = True

    def __post_init__(self) -> None:
        for name, value, floor in (("warmup", self.warmup, 0), ("least", self.least, 1), ("samples", self.samples, 1)):
            if value < floor:
                raise BadRequest(f"measure.{name}: expected at least {floor}; got {value}")
        if self.least > self.samples:
            raise BadRequest(f"measure.least: expected at most measure.samples={self.samples}; got {self.least}")
        for name, number in (("seconds", self.seconds), ("precision", self.precision)):
            if not number > 0:
                raise BadRequest(f"measure.{name}: expected more than 0; got {number}")

    def measure(self, trial: Trial) -> Iterator[Measurement]:
        clock = _CudaClock() if trial.machine.device == "cuda" else _WallClock()
        for name in trial.passes:
            with torch.compiler.set_stance("fail_on_recompile"):
                times = self._sample(clock, *trial.stages(name))
            low, median, high = (_quantile(times, share) for share in (0.05, 0.5, 0.95))
            reached = precision(times)
            short = "" if reached <= self.precision else f"not within {self.precision:g} % when the measure was full"
            rate = trial.flops[name] / 1e9  # FLOP per ms → TFLOP/s
            alone = [trial.found[each] for each in ("forward/time", "backward/time") if each in trial.found]
            gap = Gap(times, *(each.series for each in alone)) if name == "forward_backward" and alone[1:] else None
            yield Measurement(
                name=f"{name}/time", value=median, unit="ms", low=low, high=high, samples=len(times), series=times,
                note=gap.mark if gap else "",
            )  # fmt: skip
            if gap:
                yield Measurement(name=f"{name}/gap", value=gap.percent, unit="%", samples=len(times))
            if math.isfinite(reached):
                yield Measurement(name=f"{name}/precision", value=reached, unit="%", samples=len(times), note=short)
            yield Measurement(
                name=f"{name}/tflops", value=rate / median, unit="TFLOP/s", low=rate / high, high=rate / low,
                samples=len(times),
            )  # fmt: skip

    def _sample(self, clock: Any, before: Callable[[], Any], timed: Callable[[Any], Any]) -> list[float]:
        for _ in range(self.warmup):
            timed(before())
        times: list[float] = []
        deadline, look = time.perf_counter() + self.seconds, self.least
        while len(times) < self.samples and (len(times) < self.least or time.perf_counter() < deadline):
            count = min(clock.calls_at_once, self.samples - len(times))
            times += clock.time(before, timed, count)
            if len(times) >= look:  # not at each call: an interval that is looked at often is narrow by luck sometimes
                look = math.ceil(1.2 * len(times))
                if precision(times) <= self.precision:
                    break
        return times


class Gap:
    """How far a step is from the sum of its passes, each timed alone."""

    def __init__(self, step: Sequence[float], forward: Sequence[float], backward: Sequence[float]):
        self.alone = _quantile(forward, 0.5) + _quantile(backward, 0.5)
        self.percent = 100 * (_quantile(step, 0.5) / self.alone - 1)
        self.noise = sum(precision(each) * _quantile(each, 0.5) for each in (step, forward, backward)) / self.alone

    @property
    def mark(self) -> str:
        """Empty, or `noisy: …` where they are further apart than all three intervals together and AGREES."""
        if abs(self.percent) <= AGREES + self.noise:
            return ""
        return f"noisy: forward and backward alone add up to {self.alone:.3g} ms, {self.percent:+.0f} % to the step"


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


def precision(times: Sequence[float]) -> float:
    """How far, in %, the 95 % interval of the median reaches from it.  Infinite for fewer than six samples.

    By ranks, whatever the distribution: n/2 ± 0.98·√n (Conover, Practical Nonparametric Statistics, 3.2).
    """
    ordered, count = sorted(times), len(times)
    if count < 6:
        return math.inf
    middle = _quantile(ordered, 0.5)
    reach = 0.98 * math.sqrt(count)
    low = ordered[max(math.floor(count / 2 - reach), 0)]
    high = ordered[min(math.ceil(count / 2 + reach), count - 1)]
    return 100 * max(high - middle, middle - low) / middle


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share))
