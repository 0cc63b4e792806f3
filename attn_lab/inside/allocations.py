"""What memory is made of at its highest: every tensor that is live then, and the line and operator that made it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attn_lab.inside.chrome import OPERATOR, PYTHON, Allocation, Event, Trace
from attn_lab.inside.phases import BACKWARD, Attribution
from attn_lab.inside.recording import PASS

BEFORE = "before the step"
OURS = re.compile(r"^(?!torch/|<)(?P<file>.+\.py)\((?P<line>\d+)\): (?P<function>.+)$")
OF_PYTHON_ITSELF = ("contextlib.py", "functools.py", "threading.py")


@dataclass(frozen=True, kw_only=True)
class Live:
    """A block of memory: its bytes, the part of the model and the operator it was taken for, and by which line.

    For a gradient it is the line of the forward operator it belongs to, if no line asked for it itself.
    """

    bytes: int
    part: str
    operator: str
    line: str
    since: float  # ms from the step's begin; below zero, before it

    @property
    def known(self) -> bool:
        return bool(self.operator or self.line)


@dataclass(frozen=True, kw_only=True)
class Use:
    """A step's use of memory.

    live   at the peak, the largest first; what was there before is among them
    times  ms from the step's begin, at each of which `levels` has the bytes of each part
    """

    peak: int
    live: Sequence[Live]
    times: Sequence[float]
    levels: Mapping[str, Sequence[int]]


def use_of(
    trace: Trace, name: str, device: str, before: Mapping[str, int], lines: Sequence[str] | None = None
) -> Use | None:
    """Memory in the newest pass of this name; `before`: bytes that were there already, by what they are.

    `lines`: who asked for each allocation, in their order, where that is known better than the trace has it.
    None where the trace holds no such pass.
    """
    ranges = trace.ranges(PASS + name)
    if not ranges:
        return None
    step = ranges[-1]
    moves = [each for each in trace.allocations
             if each.on_cuda == (device == "cuda") and step.start <= each.time < step.end]  # fmt: skip
    taken = [each for each in moves if each.bytes > 0]
    told = dict(zip(map(id, taken), lines, strict=True)) if lines is not None and len(lines) == len(taken) else {}
    asked = Attribution(trace)
    live: dict[int, Live] = {}
    held = [Live(bytes=size, part=BEFORE, operator="", line=what, since=-1.0) for what, size in before.items()]
    now = {BEFORE: sum(before.values())}
    at_peak, highest = list(held), now[BEFORE]
    times, levels = [0.0], [dict(now)]
    for each in moves:
        moment = (each.time - step.start) / 1e3
        if each.bytes > 0:
            one = live[each.address] = _named(each, asked, moment, told.get(id(each), ""))
            now[one.part] = now.get(one.part, 0) + one.bytes
        elif gone := live.pop(each.address, None):
            now[gone.part] -= gone.bytes
        else:  # of what was there before, one is given back
            now[BEFORE] += each.bytes
        times.append(moment)
        levels.append(dict(now))
        if (total := sum(now.values())) > highest:
            highest, at_peak = total, [*held, *live.values()]
    parts = list(dict.fromkeys(part for level in levels for part in level))
    return Use(
        peak=highest, live=sorted(at_peak, key=lambda each: -each.bytes), times=times,
        levels={part: [level.get(part, 0) for level in levels] for part in parts},
    )  # fmt: skip


def as_json(use: Use, most: int) -> dict[str, Any]:
    return {"peak": use.peak, "tensors": len(use.live), "largest": [asdict(each) for each in use.live[:most]]}


def _named(allocation: Allocation, asked: Attribution, moment: float, line: str) -> Live:
    event = allocation.within
    if event is None:
        return Live(bytes=allocation.bytes, part="elsewhere", operator="", line=line, since=moment)
    part, direction = asked.of(event)
    operator = next((each.name for each in event.around if each.kind == OPERATOR), "")
    if not line:
        line = _line(event)
        backward = next((each for each in event.around if each.name.startswith(BACKWARD)), None)
        forward = asked.forward_of(backward) if backward else None
        if forward:
            line = f"gradient of {_line(forward)}"
    where = f"{part}, backward" if direction == "backward" else part
    return Live(bytes=allocation.bytes, part=where, operator=operator, line=line, since=moment)


def _line(event: Event) -> str:
    """The innermost function around an event that is not torch's or Python's own, by the line it begins on."""
    for each in event.around:
        found = OURS.match(each.name) if each.kind == PYTHON else None
        if found and not found["file"].endswith(OF_PYTHON_ITSELF):
            return f"{found['file']}:{found['line']} {found['function']}"
    return ""
