"""What memory is made of at its highest: every tensor that is live then, and the line and operator that made it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from attn_lab.profiling.phases import BACKWARD, Attribution
from attn_lab.profiling.recorder import PASS
from attn_lab.profiling.trace import OPERATOR, PYTHON, Allocation, Event, Trace

BEFORE = "before the step"
OURS = re.compile(r"^(?!torch/|<)(?P<file>.+\.py)\((?P<line>\d+)\): (?P<function>.+)$")
OF_PYTHON_ITSELF = ("contextlib.py", "functools.py", "threading.py")


@dataclass(frozen=True, kw_only=True)
class Live:
    """A block of memory: its bytes, the part of the model and the operator it was taken for, and by which line.

    For a gradient it is the line of the forward operator it belongs to, if no line of its own is known.
    """

    bytes: int
    part: str
    operator: str
    line: str
    since: float  # ms from the step's begin; below zero, before it

    @property
    def known(self) -> bool:
        return bool(self.operator or self.line)


class MemoryUse(NamedTuple):
    """A step's peak in bytes, and the blocks that were live then, the largest first; those from before among them."""

    peak: int
    live: Sequence[Live]


def memory_use(
    trace: Trace, name: str, device: str, before: Mapping[str, int], lines: Sequence[str] | None = None
) -> MemoryUse | None:
    """Memory in the newest pass of this name; `before`: bytes that were there already, by what they are.

    `lines`: the source line of each allocation, in their order, where that is known better than the trace has it.
    None where the trace holds no such pass.
    """
    ranges = trace.ranges(PASS + name)
    if not ranges:
        return None
    step = ranges[-1]
    moves = [each for each in trace.allocations
             if each.on_cuda == (device == "cuda") and step.start <= each.time < step.end]  # fmt: skip
    taken = [each for each in moves if each.bytes > 0]
    line_of = dict(zip(map(id, taken), lines, strict=True)) if lines is not None and len(lines) == len(taken) else {}
    attribution = Attribution(trace)
    live: dict[int, Live] = {}
    given = [Live(bytes=size, part=BEFORE, operator="", line=what, since=-1.0) for what, size in before.items()]
    total = highest = sum(before.values())
    at_peak = list(given)
    for each in moves:
        if each.bytes > 0:
            moment = (each.time - step.start) / 1e3
            live[each.address] = _named(each, attribution, moment, line_of.get(id(each), ""))
            total += each.bytes
        elif freed := live.pop(each.address, None):
            total -= freed.bytes
        else:  # a block from before the step is freed
            total += each.bytes
        if total > highest:
            highest, at_peak = total, [*given, *live.values()]
    return MemoryUse(highest, sorted(at_peak, key=lambda each: -each.bytes))


def as_json(use: MemoryUse, most: int) -> dict[str, Any]:
    return {"peak": use.peak, "tensors": len(use.live), "largest": [asdict(each) for each in use.live[:most]]}


def _named(allocation: Allocation, attribution: Attribution, moment: float, line: str) -> Live:
    event = allocation.within
    if event is None:
        return Live(bytes=allocation.bytes, part="elsewhere", operator="", line=line, since=moment)
    part, direction = attribution.of(event)
    operator = next((each.name for each in event.ancestors if each.kind == OPERATOR), "")
    if not line:
        line = _line(event)
        backward = next((each for each in event.ancestors if each.name.startswith(BACKWARD)), None)
        forward = attribution.forward_of(backward) if backward else None
        if forward:
            line = f"gradient of {_line(forward)}"
    where = f"{part}, backward" if direction == "backward" else part
    return Live(bytes=allocation.bytes, part=where, operator=operator, line=line, since=moment)


def _line(event: Event) -> str:
    """The innermost function around an event that is not torch's or Python's own, by the line it begins on."""
    for each in event.ancestors:
        found = OURS.match(each.name) if each.kind == PYTHON else None
        if found and not found["file"].endswith(OF_PYTHON_ITSELF):
            return f"{found['file']}:{found['line']} {found['function']}"
    return ""
