"""Where the time of a step goes: each kernel's to the part whose forward, or whose backward, launched it."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from attn_lab.profiling.annotate import PART
from attn_lab.profiling.recorder import PASS
from attn_lab.profiling.trace import OPERATOR, RANGE, Event, Kernel, Trace

BACKWARD = "autograd::engine::evaluate_function: "
OPTIMIZER = "Optimizer."
BY_OPERATOR = {  # parts that are no modules, by the operators that make them up wherever they are called
    "loss": re.compile(r"^aten::\w*_loss"),
    "attention": re.compile(r"scaled_dot_product|flash_attn|FlashAttn|flex_attention"),
}
ELSEWHERE, IDLE = "elsewhere", "idle"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part's time in one direction ("" for what has none), per step."""

    name: str
    direction: str
    ms: float
    share: float  # % of the step


@dataclass(frozen=True, kw_only=True)
class Phases:
    """The step, from its first kernel's start to its last one's end, on a CPU from its begin to its end; and its parts.

    `idle` is when no kernel ran; on a CPU, what Python took between parts.
    """

    ms: float
    phases: Sequence[Phase]

    @property
    def total(self) -> float:
        return sum(each.ms for each in self.phases)


def phases_of(trace: Trace, name: str, device: str) -> Phases | None:
    """The parts of the pass of this name, in the order they first ran; None where nothing of it is in the trace.

    An operator of a backward has the sequence number of the forward operator it belongs to, and with it its part.
    """
    ranges = trace.ranges(PASS + name)
    attribution = Attribution(trace)
    times: dict[tuple[str, str], float] = defaultdict(float)
    step = 0.0
    for one in ranges:
        if device == "cuda":
            ran = trace.kernels_of(one)
            if not ran:
                continue
            for kernel in ran:
                assert kernel.launch is not None
                times[attribution.of(kernel.launch)] += kernel.end - kernel.start
            span = max(each.end for each in ran) - ran[0].start
            times[IDLE, ""] += span - _covered(ran)
        else:
            span = one.end - one.start
            for event in trace.events_of(one):
                if event.kind in (OPERATOR, RANGE) and one in event.ancestors:
                    times[attribution.of(event)] += event.self_time
            times[IDLE, ""] += one.self_time
        step += span
    if not step:
        return None
    per = 1e-3 / len(ranges)
    return Phases(ms=step * per, phases=[
        Phase(name=name, direction=direction, ms=time * per, share=100 * time / step)
        for (name, direction), time in times.items()
    ])  # fmt: skip


def as_json(passes: Mapping[str, Phases]) -> dict[str, Any]:
    return {name: {"ms": one.ms, "phases": [asdict(each) for each in one.phases]} for name, one in passes.items()}


def as_markdown(passes: Mapping[str, Phases]) -> str:
    pieces = []
    for name, one in passes.items():
        lines = [
            f"### {name}: {one.ms:.4g} ms",
            "",
            "| phase | direction | ms | share |",
            "| --- | --- | ---: | ---: |",
        ]
        lines += [f"| {each.name} | {each.direction} | {each.ms:.4g} | {each.share:.1f} % |" for each in one.phases]
        lines.append(f"| **together** | | {one.total:.4g} | {100 * one.total / one.ms:.1f} % |")
        pieces.append("\n".join(lines))
    return "\n\n".join(pieces) + "\n"


class Attribution:
    """Which part an event of the host belongs to, and in which direction."""

    def __init__(self, trace: Trace):
        self._trace = trace

    def of(self, event: Event) -> tuple[str, str]:
        part = ""
        for each in event.ancestors:
            if each.kind == RANGE and each.name.startswith(OPTIMIZER):
                return "optimizer", ""
            if each.name.startswith(BACKWARD):
                return part or self._of_forward(each) or ELSEWHERE, "backward"
            part = part or _named(each)
        return part or ELSEWHERE, "forward"

    def forward_of(self, backward: Event) -> Event | None:
        """The newest forward operator with the sequence number of a backward one."""
        earlier = [each for each in self._forwards.get(backward.sequence, []) if each.start < backward.start]
        return earlier[-1] if earlier else None

    def _of_forward(self, backward: Event) -> str:
        forward = self.forward_of(backward)
        return next(filter(None, map(_named, forward.ancestors)), "") if forward else ""

    @cached_property
    def _forwards(self) -> Mapping[int | None, list[Event]]:
        """By sequence number; what belongs to a backward knows its forward's thread, others have none to know."""
        found: dict[int | None, list[Event]] = defaultdict(list)
        for event in self._trace.events:
            if event.sequence is not None and not event.details.get("Fwd thread id"):
                found[event.sequence].append(event)
        return found


def _named(event: Event) -> str:
    """The part that an event itself names; "" for most."""
    if event.kind == RANGE:
        return event.name.removeprefix(PART) if event.name.startswith(PART) else ""
    return next((part for part, pattern in BY_OPERATOR.items() if pattern.search(event.name)), "")


def _covered(kernels: Sequence[Kernel]) -> float:
    """µs in which at least one of them ran; they come in the order they began."""
    covered, until = 0.0, float("-inf")
    for each in kernels:
        covered += max(each.end - max(each.start, until), 0.0)
        until = max(until, each.end)
    return covered
