"""Nsight Compute's table of raw counters as the few that say why a kernel takes its time."""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attn_lab.core.backend import Backend

SECTIONS = ("SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats",
            "WarpStateStats")  # fmt: skip
ALSO = ("dram__bytes_read.sum", "dram__bytes_write.sum", "gpu__time_duration.sum")
COUNTERS = {  # what it is called here, and Nsight's own names for it; of several that match, the largest counts
    "time us": r"^gpu__time_duration\.sum$",
    "SM busy %": r"^sm__throughput\.avg\.pct_of_peak_sustained_elapsed$",
    "tensor cores %": r"^sm__(inst_executed_)?pipe_tensor\w*\.avg\.pct_of_peak_sustained_(active|elapsed)$",
    "DRAM busy %": r"^(gpu__)?dram__?throughput\.avg\.pct_of_peak_sustained_elapsed$",
    "L2 busy %": r"^lts__t_sectors\.avg\.pct_of_peak_sustained_elapsed$",
    "occupancy achieved %": r"^sm__warps_active\.avg\.pct_of_peak_sustained_active$",
    "occupancy possible %": r"^sm__maximum_warps_per_active_cycle_pct$",
    "registers": r"^launch__registers_per_thread$",
    "issued per cycle": r"^sm__inst_issued\.avg\.per_cycle_active$|^sm__inst_executed\.avg\.per_cycle_active$",
}
READ, WRITTEN = "dram__bytes_read.sum", "dram__bytes_write.sum"
NAMESPACE = re.compile(r"(\(\?<!\\w\))?\w+::")  # in a pattern, with what must not stand before it
WITHOUT = "kernels told by their names without namespaces, Nsight gave none"
STALL = re.compile(r"^smsp__average_warps_issue_stalled_(?P<why>\w+?)_per_issue_active\.ratio$")
STALLS = 3  # reasons that are listed
TO_BASE = {"us": 1.0, "usecond": 1.0, "ns": 1e-3, "nsecond": 1e-3, "ms": 1e3, "msecond": 1e3, "s": 1e6, "second": 1e6,
           "byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Counted:
    """One launch of one kernel: `DRAM MB` is read and written, `stalled, WHY` warps that wait, for each that issues."""

    name: str
    counters: Mapping[str, float]


def counted(text: str) -> list[Counted]:
    """What `ncu --page raw --csv` prints: heads, units, then a row a launch; other lines may come before.

    Names may be mangled, and are better so: those that Nsight demangles are without namespaces.  Raises ValueError if
    that is not what it is.
    """
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise ValueError("no line of heads that begins with ID")
    heads, units, *rows = csv.reader(lines[start:])
    return [_counted(heads, units, row) for row in rows if len(row) == len(heads)]


def passes_of(backend: Backend, rows: Sequence[Counted]) -> Iterator[tuple[str, Counted]]:
    """Forward kernels run before backward ones; a pattern that is the same for both tells them not apart."""
    patterns, _ = patterns_of(backend, rows)
    for row in rows:
        matching = [name for name, pattern in patterns.items() if re.search(pattern, row.name)]
        if matching:
            yield (matching[-1] if len(set(patterns.values())) > 1 else "forward, backward"), row


def patterns_of(backend: Backend, rows: Sequence[Counted]) -> tuple[Mapping[str, str], str]:
    """A backend's patterns as declared; only where no name has a namespace without theirs, with a note that says so."""
    bare = {name: NAMESPACE.sub("", pattern) for name, pattern in backend.kernels.items()}
    if bare == dict(backend.kernels) or any("::" in row.name for row in rows):
        return backend.kernels, ""
    return bare, WITHOUT


def metrics(seen: Sequence[Mapping[str, Any]], least: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Counters of each pass's longest kernel, and what all of them moved against what the pass must move."""
    units = {"us": "us", "%": "%", "MB": "MB"}
    for name in dict.fromkeys(each["pass"] for each in seen):
        kernels = [each for each in seen if each["pass"] == name]
        longest = max(kernels, key=lambda each: each["counters"].get("time us", 0.0))
        for counter, value in longest["counters"].items():
            unit = units.get(counter.rpartition(" ")[2], "warps" if counter.startswith("stalled") else "")
            key = re.sub(r"\W+", "_", counter.removesuffix(f" {unit}")).strip("_").lower()
            yield (
                f"nsight/{name}/{key}",
                _metric(value, unit, "; ".join(filter(None, (longest["note"], longest["name"])))),
            )
        moved = sum(each["counters"].get("DRAM MB", 0.0) for each in kernels)
        if moved and f"{name}/min_bytes" in least:
            must = least[f"{name}/min_bytes"]["value"]
            note = f"{moved:.4g} MB moved by {len(kernels)} kernels, {must:.4g} MB must be"
            yield f"nsight/{name}/dram_over_min", _metric(moved / must, "of what must move", note)


def _metric(value: float, unit: str, note: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "low": None, "high": None, "samples": 1, "note": note[:120]}


def _counted(heads: Sequence[str], units: Sequence[str], row: Sequence[str]) -> Counted:
    cells = dict(zip(heads, row, strict=True))
    numbers = {head: number for head, unit, cell in zip(heads, units, row, strict=True)
               if (number := _number(cell, unit)) is not None}  # fmt: skip
    found: dict[str, float] = {}
    for name, pattern in COUNTERS.items():
        if values := [number for head, number in numbers.items() if re.search(pattern, head)]:
            found[name] = max(values)
    if READ in numbers and WRITTEN in numbers:
        found["DRAM MB"] = (numbers[READ] + numbers[WRITTEN]) / 2**20
    stalls = {match["why"]: number for head, number in numbers.items() if (match := STALL.match(head))}
    stalls.pop("selected", None)  # those issue: they do not wait
    for why in sorted(stalls, key=lambda each: -stalls[each])[:STALLS]:
        found[f"stalled, {why}"] = stalls[why]
    # Torch's own demangler gives the names its profiler tells kernels by; what is not mangled it leaves alone.
    return Counted(name=torch._C._demangle(cells["Kernel Name"]), counters=found)


def _number(cell: str, unit: str) -> float | None:
    try:
        number = float(cell.replace(",", "")) * TO_BASE.get(unit, 1.0)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
