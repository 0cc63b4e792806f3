"""What ran in a pass, kernel by kernel: time, share, launch and occupancy; on a CPU operator by operator."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attn_lab.inside.chrome import OPERATOR, Event, Kernel, Trace
from attn_lab.inside.recording import PASS

MOST = 15  # rows of a table; the rest is one row
REST = "all others"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A kernel with one way to launch it, per run of its pass.  What a CPU does not have is None there.

    `attention`: it is one of those the backend declares.  `occupancy` is the profiler's estimate, in %.
    """

    name: str
    attention: bool
    count: float
    ms: float
    share: float  # % of what ran in this pass
    grid: tuple[int, ...] | None = None
    block: tuple[int, ...] | None = None
    registers: int | None = None  # per thread
    shared_memory: int | None = None  # bytes per block
    occupancy: float | None = None


@dataclass(frozen=True, kw_only=True)
class PassKernels:
    """All that ran in one pass, longest first; `ms` of it together, `span` from the first's start to the last's end."""

    kernels: Sequence[Ran]
    ms: float
    span: float

    @property
    def count(self) -> float:
        return sum(each.count for each in self.kernels)

    @property
    def attention(self) -> float:
        """% of the time that is the declared kernels'."""
        return sum(each.share for each in self.kernels if each.attention)


def kernels_of(trace: Trace, name: str, device: str, declared: Sequence[str]) -> PassKernels | None:
    """What ran in the pass of this name; `declared` are patterns of the kernels that are the attention's.

    None where nothing did, or the pass is not in the trace.
    """
    ranges = trace.ranges(PASS + name)
    found: dict[Any, list[Any]] = defaultdict(list)
    span = 0.0
    for one in ranges:
        ran: list[Kernel] | list[Event]
        if device == "cuda":
            ran = trace.kernels_of(one)
            span += max((each.end for each in ran), default=0.0) - min((each.start for each in ran), default=0.0)
        else:
            ran = [event for event in trace.events_of(one) if event.kind == OPERATOR]
            span += one.end - one.start
        for each in ran:
            found[each.name, str(each.details.get("grid")), str(each.details.get("block"))].append(each)
    if not found:
        return None
    total = sum(map(_time, (each for several in found.values() for each in several)))
    rows = [_ran(several, len(ranges), total, declared) for several in found.values()]
    rows.sort(key=lambda row: -row.ms)
    return PassKernels(kernels=rows, ms=total / len(ranges) / 1e3, span=span / len(ranges) / 1e3)


def as_json(passes: Mapping[str, PassKernels]) -> dict[str, Any]:
    return {name: {"ms": one.ms, "span_ms": one.span, "kernels": [asdict(each) for each in one.kernels]}
            for name, one in passes.items()}  # fmt: skip


def as_markdown(passes: Mapping[str, PassKernels]) -> str:
    """A table a pass, the attention's own kernels marked ●; past MOST rows the rest is one."""
    pieces = []
    for name, one in passes.items():
        rows = list(one.kernels[:MOST])
        on_device = any(each.grid for each in rows)
        heads = ["", "kernel" if on_device else "operator", "ms", "share", "count"]
        heads += ["grid", "block", "registers", "shared KB", "occupancy"] if on_device else []
        lines = [f"### {name}: {one.ms:.4g} ms in {one.count:g} {'launches' if on_device else 'calls'}", "",
                 f"| {' | '.join(heads)} |", "| --- | --- " + "| ---: " * (len(heads) - 2) + "|"]  # fmt: skip
        for each in rows:
            cells = ["●" if each.attention else "", f"`{short(each.name)}`", f"{each.ms:.4g}", f"{each.share:.1f} %",
                     f"{each.count:g}"]  # fmt: skip
            if on_device:
                cells += [_by(each.grid), _by(each.block), _or_dash(each.registers),
                          "–" if each.shared_memory is None else f"{each.shared_memory / 1024:.4g}",
                          "–" if each.occupancy is None else f"{each.occupancy:g} %"]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        if rest := one.kernels[MOST:]:
            cells = ["", f"{REST} ({len(rest)})", f"{sum(each.ms for each in rest):.4g}",
                     f"{sum(each.share for each in rest):.1f} %", f"{sum(each.count for each in rest):g}"]  # fmt: skip
            lines.append(f"| {' | '.join(cells + [''] * (len(heads) - len(cells)))} |")
        pieces.append("\n".join(lines))
    return "\n\n".join(pieces) + "\n"


def short(name: str) -> str:
    """A kernel's name without namespaces' noise and without what it is given, at most 90 characters."""
    plain = re.sub(r"^void |\(anonymous namespace\)::", "", name).replace("|", "¦").replace("`", "'")
    head = re.sub(r"\(.*$", "", plain) if not plain.startswith("(") else plain
    return head if len(head) <= 90 else f"{head[:89]}…"


def _ran(several: Sequence[Kernel | Event], runs: int, total: float, declared: Sequence[str]) -> Ran:
    one, time = several[0], sum(map(_time, several))
    return Ran(
        name=one.name, attention=any(re.search(pattern, one.name) for pattern in declared),
        count=len(several) / runs, ms=time / runs / 1e3, share=100 * time / total if total else 0.0,
        grid=_sizes(one.details.get("grid")), block=_sizes(one.details.get("block")),
        registers=one.details.get("registers per thread"), shared_memory=one.details.get("shared memory"),
        occupancy=one.details.get("est. achieved occupancy %"),
    )  # fmt: skip


def _time(ran: Kernel | Event) -> float:
    return ran.itself if isinstance(ran, Event) else ran.end - ran.start


def _sizes(value: Any) -> tuple[int, ...] | None:
    return tuple(map(int, value)) if isinstance(value, list) else None


def _by(sizes: tuple[int, ...] | None) -> str:
    return "–" if sizes is None else "×".join(map(str, sizes))


def _or_dash(value: object) -> str:
    return "–" if value is None else str(value)
