"""What kind of time?  A GPU's pass with a hot L2, as a CUDA graph, on the host, and summed over its kernels."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from attn_lab.core.errors import BadRequest
from attn_lab.measure.prepared_case import PreparedCase, Probe
from attn_lab.measure.probes._captured import Uncapturable, captured
from attn_lab.measure.probes._clock import (
    L2_FLUSH_BYTES,
    Before,
    CudaClock,
    Timed,
    host_bound_note,
    launches,
    pause,
    precision,
    summed,
)
from attn_lab.records.record import Measurement

AGREES = 5.0  # %: what the profiler itself costs, and what a clock and a sum of kernels may differ by
BETWEEN = 3e-3  # ms from one kernel to the next in a stream, and around an event
SPAN = "attn_lab::"


@dataclass(frozen=True)
class TimeVariants(Probe):
    """Beside PASS/time, which is eager and cold:

    PASS/time_hot      the same without flushing the L2
    PASS/time_graph    cold, replayed as a CUDA graph: without the host.  Where a pass cannot be captured it has no
                       value, and its note says why
    PASS/time_host     until a call has returned to the host, which an idle GPU has to wait for
    PASS/time_kernels  the profiler's sum over the kernels of a call, cold; from PASS/time it may differ by what lies
                       between kernels and by noise.  Anything more is a mark: a longer time has timed the host as well,
                       a shorter one has missed work, on another stream say

    `calls` of each, fewer where they would take more than `seconds`, with rests between where PASS/time needed them.
    On a CPU there is but one kind, and nothing here.
    """

    calls: int
    seconds: float
    clocks = True

    def __post_init__(self) -> None:
        if self.calls < 1:
            raise BadRequest(f"probe.time_variants.calls: expected at least 1; got {self.calls}")
        if not self.seconds > 0:
            raise BadRequest(f"probe.time_variants.seconds: expected more than 0; got {self.seconds}")

    def measure(self, prepared: PreparedCase) -> Iterator[Measurement]:
        if prepared.machine.device != "cuda":
            return
        begun = time.perf_counter()
        with torch.compiler.set_stance("fail_on_recompile"):
            for name in prepared.passes:
                for kind, take in (("hot", self._hot), ("graph", self._graph), ("host", self._host)):
                    try:
                        times, note = take(prepared, name)
                    except Uncapturable as why:
                        times, note = [math.nan], f"cannot be captured: {why}"
                    yield Measurement(**summed(f"{name}/time_{kind}", times, note))
            yield from self._kernels(prepared)
        yield Measurement(
            name="time_variants/seconds", value=time.perf_counter() - begun, unit="s", note="for all passes"
        )

    def _hot(self, prepared: PreparedCase, name: str) -> tuple[list[float], str]:
        return self._clocked(
            CudaClock(_rest(prepared, name), hot=True), *prepared.stages(name), self._count(prepared, name)
        )

    def _graph(self, prepared: PreparedCase, name: str) -> tuple[list[float], str]:
        before, timed = captured(prepared, name)
        try:
            return self._clocked(CudaClock(_rest(prepared, name)), before, timed, self._count(prepared, name))
        except torch.OutOfMemoryError as error:  # the graph has memory of its own
            raise Uncapturable("out of memory beside it") from error

    def _host(self, prepared: PreparedCase, name: str) -> tuple[list[float], str]:
        return launches(*prepared.stages(name), self._count(prepared, name)), ""

    def _clocked(self, clock: CudaClock, before: Before, timed: Timed, count: int) -> tuple[list[float], str]:
        """The times, and what is wrong with them."""
        clock.warm(before, timed, min(count, 3), math.inf)
        times = clock.time(before, timed, count, lambda: None)
        mark = host_bound_note(clock, count)
        return times, f"noisy: {mark}" * bool(mark)

    def _count(self, prepared: PreparedCase, name: str) -> int:
        known = prepared.found.get(f"{name}/time")
        return min(self.calls, max(1, int(self.seconds / (known.value / 1e3)))) if known else self.calls

    def _kernels(self, prepared: PreparedCase) -> Iterator[Measurement]:
        counts = {name: self._count(prepared, name) for name in prepared.passes}
        for name, kernels in _profiled(prepared, counts).items():
            sums, launched = [sum(each) for each in kernels], max(map(len, kernels))
            if not launched:
                yield Measurement(**summed(f"{name}/time_kernels", [math.nan], "the profiler lost them"))
                continue
            seen = Measurement(**summed(f"{name}/time_kernels", sums))
            note = f"{launched} kernels a call"
            if clock := prepared.found.get(f"{name}/time"):
                ratio = clock.value / seen.value
                noise = AGREES + 100 * BETWEEN * (launched + 1) / max(seen.value, BETWEEN)
                noise += min(precision(clock.series), 100.0)
                if 100 * (max(ratio, 1 / ratio) - 1) > noise:
                    why = "the host was timed as well" if ratio > 1 else "some of its work the clock did not see"
                    note = f"noisy: the clock saw {clock.value:.3g} ms, the kernels took {seen.value:.3g}: {why}"
                yield replace(seen, note=note)
                yield Measurement(name=f"{name}/kernels_gap", value=100 * (ratio - 1), unit="%", samples=len(sums))
            else:
                yield replace(seen, note=note)


def _rest(prepared: PreparedCase, name: str) -> float:
    known = prepared.found.get(f"{name}/rest_ratio")
    return known.value if known else 0.0


def _profiled(prepared: PreparedCase, counts: dict[str, int]) -> dict[str, list[list[float]]]:
    """By pass and call: how long each kernel took, in ms."""
    flush = torch.empty(L2_FLUSH_BYTES, dtype=torch.int8, device="cuda")
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
        for name, count in counts.items():
            (before, timed), rest = prepared.stages(name), _rest(prepared, name)
            for index in range(count):
                begun = time.perf_counter()
                prepared = before()
                flush.zero_()
                torch.cuda.synchronize()
                with record_function(f"{SPAN}{name}/{index}"):
                    result = timed(prepared)
                    torch.cuda.synchronize()
                del result, prepared
                pause(rest, time.perf_counter() - begun)
    events = list(profiler.events())
    spans = {event.name: event.time_range for event in events
             if event.device_type == DeviceType.CPU and event.name.startswith(SPAN)}  # fmt: skip
    kernels = sorted(
        (event.time_range.start, event.time_range.elapsed_us()) for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation and not event.name.startswith(SPAN)
    )  # fmt: skip
    return {
        name: [
            [took / 1e3 for start, took in kernels if span.start <= start <= span.end]
            for index in range(count)
            for span in [spans[f"{SPAN}{name}/{index}"]]
        ]
        for name, count in counts.items()
    }
