"""What probes with a clock share: the two clocks, and how sure a median is."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

L2_FLUSH_BYTES = 256 * 2**20  # several times any GPU's L2
CYCLES = 2_000_000  # of a GPU's clock in a millisecond, roughly
CUSHION = (0.25, 5.0)  # ms that the GPU waits before a call, at least and at most
BURST = 0.01  # s: on the H100 calls of 700 W on end for 20 ms reached the cap, rests or not; for 10 ms they did not
LONGEST = 0.1  # s of a rest: what works for longer than its regulator looks back is at its cap whatever comes after
AHEAD = 1.5  # times what the host needs to queue a call: so long the GPU waits for it
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)  # 97.5 % of t by degrees of freedom, and beyond
AT_ONCE = 10  # calls queued together: the host gets further ahead with each
SELDOM = 0.1  # of the calls, and one, may be late before the GPU is to wait longer; of those that count, before a mark
MEDIAN = 1.25  # times as far as a mean, of normal deviates
Before = Callable[[], Any]
Timed = Callable[[Any], Any]


class Clock(Protocol):
    """`rest`: it rests so many times as long as each burst of calls took; 0 is call after call.

    `late`: calls that were made again since a GPU began them before the host had queued the whole of them; `behind`:
    those that count in spite of it.  The reader sets both back to 0.
    """

    rest: float
    late: int
    behind: int

    @property
    def calls_at_once(self) -> int: ...

    def warm(self, before: Before, timed: Timed, count: int, seconds: float) -> float:
        """Make `count` untimed calls, fewer once `seconds` are over.  Returns how long each took, in s."""

    def time(self, before: Before, timed: Timed, count: int, meanwhile: Callable[[], None]) -> list[float]:
        """Milliseconds of `count` calls.  `meanwhile` is called once, when they are on their way."""


class WallClock:
    calls_at_once = 1
    rest = 0.0
    late = behind = 0

    def warm(self, before: Before, timed: Timed, count: int, seconds: float) -> float:
        return _warmed(before, timed, count, seconds)[0]

    def time(self, before: Before, timed: Timed, count: int, meanwhile: Callable[[], None]) -> list[float]:
        begun = time.perf_counter()
        times = launches(before, timed, count)
        meanwhile()
        pause(self.rest, time.perf_counter() - begun)
        return times


class CudaClock:
    """An event pair a call.  Before each the GPU waits until the host has queued it, or the host is what one times; and
    its L2 is flushed, unless it is to be `hot`.  One that rests makes its calls in bursts of BURST seconds.

    A host can be slower than it was at warming up.  Where it is late more than seldom the GPU is to wait longer; where
    that waits for as long as may be, late calls count.  Hosts that need longer than that anyway are not looked at in
    this way: their GPU is busy with the first kernels of a call while the last are queued.
    """

    def __init__(self, rest: float = 0.0, hot: bool = False) -> None:
        self.rest = rest
        self.late = self.behind = 0
        self._took = 0.0
        self._flush = None if hot else torch.empty(L2_FLUSH_BYTES, dtype=torch.int8, device="cuda")
        self._cushion, self._looks = CUSHION[0], True
        self._made = self._missed = 0  # calls under this cushion, and the late ones among them

    def warm(self, before: Before, timed: Timed, count: int, seconds: float) -> float:
        """See also how long each takes, and the host at it."""
        self._took, hosts = _warmed(before, timed, count, seconds)
        if hosts:
            wanted = AHEAD * float(np.median(hosts))
            self._cushion, self._looks = min(max(CUSHION[0], wanted), CUSHION[1]), wanted <= CUSHION[1]
            self._made = self._missed = 0
        return self._took

    @property
    def calls_at_once(self) -> int:
        return max(1, min(AT_ONCE, int(BURST / max(self._took, 1e-9)))) if self.rest else AT_ONCE

    def time(self, before: Before, timed: Timed, count: int, meanwhile: Callable[[], None]) -> list[float]:
        times: list[float] = []
        while len(times) < count:
            begun = time.perf_counter()
            times += self._burst(before, timed, min(self.calls_at_once, count - len(times)), meanwhile)
            meanwhile = _nothing
            pause(self.rest, time.perf_counter() - begun)
        return times

    def _burst(self, before: Before, timed: Timed, count: int, meanwhile: Callable[[], None]) -> list[float]:
        """Of up to `count` calls, those that count."""
        calls = self._queued(before, timed, count, meanwhile)
        if not self._looks:
            return [took for took, _ in calls]
        late = sum(each for _, each in calls)
        self._made, self._missed = self._made + count, self._missed + late
        if self._missed > 1 + SELDOM * self._made:
            if self._cushion == CUSHION[1]:
                self.behind += late
                return [took for took, _ in calls]
            self._cushion, self._made, self._missed = min(2 * self._cushion, CUSHION[1]), 0, 0
        self.late += late
        return [took for took, each in calls if not each]

    def _queued(
        self, before: Before, timed: Timed, count: int, meanwhile: Callable[[], None]
    ) -> list[tuple[float, bool]]:
        """Of each call how long it took, and whether the GPU began it before all of it was queued."""
        calls = []
        for _ in range(count):
            prepared = before()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda._sleep(round(self._cushion * CYCLES))
            if self._flush is not None:
                self._flush.zero_()
            start.record()
            result = timed(prepared)
            end.record()
            late = start.query()
            del result, prepared
            calls.append((start, end, late))
        meanwhile()
        torch.cuda.synchronize()
        return [(start.elapsed_time(end), late) for start, end, late in calls]


def _nothing() -> None:
    pass


def host_bound_note(clock: Clock, taken: int) -> str:
    """Empty, or what is wrong with so many calls: the GPU had to wait for the host in more than a few that count."""
    return f"the host was late with {clock.behind} of {taken} calls" if clock.behind > SELDOM * taken else ""


def pause(rest: float, worked: float) -> None:
    """Let a GPU that has worked for so many seconds rest `rest` times as long, LONGEST at most.

    Its host stays awake: after a sleep it is so late with the first call of a burst that the GPU waits for it.
    """
    end = time.perf_counter() + min(rest * worked, LONGEST)
    while time.perf_counter() < end:
        pass


def _warmed(before: Before, timed: Timed, count: int, seconds: float) -> tuple[float, list[float]]:
    """How long a call took in all, in s, and until each had returned to the host, in ms."""
    begun, hosts = time.perf_counter(), list[float]()
    while len(hosts) < count and time.perf_counter() - begun < seconds:
        hosts += launches(before, timed, 1)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / max(len(hosts), 1), hosts


def launches(before: Before, timed: Timed, count: int) -> list[float]:
    """Milliseconds until each call has returned to the host; on the CPU it is done then."""
    times = []
    for _ in range(count):
        prepared = before()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # or a full queue would keep the host
        start = time.perf_counter()
        result = timed(prepared)
        times.append((time.perf_counter() - start) * 1e3)
        del result, prepared
    return times


def precision(times: Sequence[float]) -> float:
    """How far, in %, the 95 % interval of the median reaches from it.  Infinite for fewer than six samples.

    By ranks, whatever the distribution: n/2 ± 0.98·√n (Conover, Practical Nonparametric Statistics, 3.2).
    """
    ordered, count = sorted(times), len(times)
    if count < 6:
        return math.inf
    middle = quantile(ordered, 0.5)
    reach = 0.98 * math.sqrt(count)
    low = ordered[max(math.floor(count / 2 - reach), 0)]
    high = ordered[min(math.ceil(count / 2 + reach), count - 1)]
    return 100 * max(high - middle, middle - low) / middle


def between(medians: Sequence[float]) -> float:
    """How far, in %, the 95 % interval of batches' median reaches from it.  0 for fewer than two.

    Student's of their mean, and a median wanders further than a mean.
    """
    count = len(medians)
    if count < 2:
        return 0.0
    reach = STUDENT[min(count - 1, len(STUDENT)) - 1] * MEDIAN * float(np.std(medians, ddof=1)) / math.sqrt(count)
    return 100 * reach / float(np.mean(medians))


def quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share))


def summed(name: str, times: Sequence[float], note: str = "") -> dict[str, Any]:
    """The fields of a measurement in ms: the median, p05 and p95 of samples."""
    low, middle, high = (quantile(times, share) for share in (0.05, 0.5, 0.95))
    return {"name": name, "value": middle, "unit": "ms", "low": low, "high": high, "samples": len(times), "note": note}
