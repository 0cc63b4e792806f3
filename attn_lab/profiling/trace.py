"""A Chrome trace of torch's profiler, read back: which operator lies in which, and which of them launched a kernel."""

import gzip
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OPERATOR, RANGE, PYTHON = "cpu_op", "user_annotation", "python_function"
LAUNCHES = ("cuda_runtime", "cuda_driver")
ROUNDING = 0.01  # µs
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(slots=True, eq=False)
class Event:
    """Something of the host's with a beginning and an end, in µs, among others of its thread."""

    name: str
    kind: str
    start: float
    end: float
    thread: Any
    details: Mapping[str, Any]
    parent: "Event | None" = None
    children: list["Event"] = field(default_factory=list)

    @property
    def self_time(self) -> float:
        """Its time without that of what lies in it."""
        return self.end - self.start - sum(child.end - child.start for child in self.children)

    @property
    def ancestors(self) -> Iterator["Event"]:
        """Itself and all it lies in, the innermost first."""
        event: Event | None = self
        while event is not None:
            yield event
            event = event.parent

    @property
    def sequence(self) -> int | None:
        """What a backward function has in common with the operator it belongs to; None where there is no backward."""
        return self.details.get("Sequence number")


@dataclass(slots=True, eq=False)
class Kernel:
    """Something that ran on the device, and the innermost event of the host that launched it, where that is known."""

    name: str
    start: float
    end: float
    details: Mapping[str, Any]
    launch: Event | None


@dataclass(slots=True, eq=False)
class Allocation:
    """Bytes taken (or, below zero, given back) at an address."""

    time: float
    address: int
    bytes: int
    on_cuda: bool
    within: Event | None


class Trace:
    """Events of the host in the order they began, kernels in the order they ran, allocations in the order they came.

    `python` has Python's functions among the events, where the profiler took them down.
    """

    def __init__(self, path: Path, *, python: bool = False):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            raw = json.load(file)["traceEvents"]
        wanted = (OPERATOR, RANGE, *LAUNCHES, *([PYTHON] if python else []))
        self.events = _nested(
            Event(each["name"], each["cat"], each["ts"], each["ts"] + each.get("dur", 0.0), each["tid"],
                  each.get("args", {}))
            for each in raw if each.get("cat") in wanted and each["ph"] == "X"
        )  # fmt: skip
        launches = {event.details.get("correlation"): event for event in self.events if event.kind in LAUNCHES}
        ran = (each for each in raw if each.get("cat") in ON_DEVICE)
        self.kernels = sorted((
            Kernel(each["name"], each["ts"], each["ts"] + each.get("dur", 0.0), each["args"],
                   launches.get(each["args"].get("correlation")))
            for each in ran
        ), key=lambda kernel: kernel.start)  # fmt: skip
        self._by_thread: dict[Any, list[Event]] = {}
        for event in self.events:
            self._by_thread.setdefault(event.thread, []).append(event)
        self._starts = {thread: [event.start for event in events] for thread, events in self._by_thread.items()}
        self.allocations = [
            Allocation(each["ts"], each["args"]["Addr"], each["args"]["Bytes"], each["args"]["Device Type"] == 1,
                       self._at(each["tid"], each["ts"]))
            for each in sorted((each for each in raw if each["name"] == "[memory]"), key=lambda each: each["ts"])
        ]  # fmt: skip

    def ranges(self, name: str) -> list[Event]:
        """The ranges of this very name, in the order they began."""
        return [event for event in self.events if event.kind == RANGE and event.name == name]

    def kernels_of(self, range: Event) -> list[Kernel]:
        """What was launched while a range lasted, by whatever thread: a backward has one of its own."""
        return [each for each in self.kernels if each.launch and range.start <= each.launch.start < range.end]

    def events_of(self, range: Event) -> list[Event]:
        """What went on while a range lasted, on any thread, without the range itself."""
        return [event for event in self.events if range.start <= event.start < range.end and event is not range]

    def _at(self, thread: Any, time: float) -> Event | None:
        """The innermost event of a thread at a time."""
        index = bisect_right(self._starts.get(thread, []), time) - 1
        if index < 0:
            return None
        return next((event for event in self._by_thread[thread][index].ancestors if event.end >= time), None)


def _nested(events: Iterator[Event]) -> list[Event]:
    """In the order they began, each knowing what it lies in and what lies in it."""
    ordered = sorted(events, key=lambda event: (event.start, -event.end, event.details.get("Ev Idx", 0)))
    open_ones: dict[Any, list[Event]] = {}
    for event in ordered:
        stack = open_ones.setdefault(event.thread, [])
        while stack and stack[-1].end <= event.start:
            stack.pop()
        # Not simply the topmost: a range that a hook opens outlasts the function that opened it.
        event.parent = next((each for each in reversed(stack) if each.end >= event.end - ROUNDING), None)
        if event.parent:
            event.parent.children.append(event)
        stack.append(event)
    return ordered
