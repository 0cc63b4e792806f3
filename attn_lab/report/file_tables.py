"""What the files of one case hold, as tables: kernels, phases, memory, counters.  A foreign one is reported."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import msgspec
from rich.table import Table
from rich.text import Text

from attn_lab.core.kernel_name import short_name
from attn_lab.records.artifacts import inside
from attn_lab.records.printable import printable
from attn_lab.records.record import Record
from attn_lab.report import compare

MOST = 6  # kernels of a pass
MB = 2**20
LARGEST = 64 * MB  # of a file that is shown


class _Kernel(msgspec.Struct):
    name: str
    ms: float
    share: float
    count: float
    attention: bool
    occupancy: float | None = None


class _Kernels(msgspec.Struct):
    ms: float
    kernels: list[_Kernel]


class _Phase(msgspec.Struct):
    name: str
    direction: str
    ms: float
    share: float


class _Phases(msgspec.Struct):
    ms: float
    phases: list[_Phase]


class _Allocation(msgspec.Struct):
    bytes: float
    part: str
    operator: str
    line: str


class _Memory(msgspec.Struct):
    peak: float
    largest: list[_Allocation]


_Counted = TypedDict("_Counted", {"pass": str, "name": str, "counters": dict[str, float | None]})


def file_tables(record: Record) -> Iterator[tuple[str, Table | Text]]:
    """(title, table) of each file of the record's that can be shown; one that cannot be read says so."""
    for kind, (name, shape, tables_of) in FILES.items():
        try:
            content = _content(record, kind, name, shape)
            yield from tables_of(content) if content is not None else ()
        except ValueError as error:  # msgspec's own are among them
            yield kind, Text(f"{name} cannot be read: {error}", "yellow")


def _content(record: Record, kind: str, name: str, shape: Any) -> Any:
    """What a file of the record's holds, None where it has no such file.  Raises ValueError for a foreign one."""
    for each in record.artifacts:
        path = inside(record.folder or Path(), each["path"])
        if each["kind"] != kind or path is None or path.name != name:
            continue
        try:
            if path.stat().st_size > LARGEST:
                raise ValueError(f"expected at most {LARGEST / MB:.0f} MB")
            content = printable(msgspec.json.decode(path.read_bytes()))
            return msgspec.convert(content, shape)
        except (OSError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}") from None
    return None


def _kernels(content: Mapping[str, _Kernels]) -> Iterator[tuple[str, Table]]:
    for name, one in content.items():
        table = columns("", "kernel", "ms", "share", "count", "occupancy", right=(2, 3, 4, 5))
        for each in one.kernels[:MOST]:
            occupancy = "" if each.occupancy is None else f"{each.occupancy:g} %"
            table.add_row("●" if each.attention else "", each.name[:90], compare.digits(each.ms),
                          f"{each.share:.1f} %", f"{each.count:g}", occupancy)  # fmt: skip
        yield f"kernels, {name}: {compare.digits(one.ms)} ms", table


def _phases(content: Mapping[str, _Phases]) -> Iterator[tuple[str, Table]]:
    for name, one in content.items():
        table = columns("phase", "", "ms", "share", right=(2, 3))
        for each in one.phases:
            table.add_row(each.name, each.direction, compare.digits(each.ms), f"{each.share:.1f} %")
        yield f"phases of a {name}: {compare.digits(one.ms)} ms", table


def _memory(content: _Memory) -> Iterator[tuple[str, Table]]:
    table = columns("MB", "share", "part", "operator", "made by", right=(0, 1))
    for each in content.largest:
        share = f"{100 * each.bytes / content.peak:.1f} %" if content.peak else "–"
        table.add_row(compare.digits(each.bytes / MB), share, each.part, each.operator, each.line)
    yield f"largest at the peak of {compare.digits(content.peak / MB)} MB", table


def _counters(content: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Table]]:
    yield "Nsight Compute", counters_table(content)


def counters_table(content: Sequence[Mapping[str, Any]]) -> Table:
    """A column for each kernel that was counted."""
    table = columns("counter", *(f"{each['pass']} {short_name(each['name'])}" for each in content), right=())
    for name in dict.fromkeys(name for each in content for name in each["counters"]):
        values = [each["counters"].get(name) for each in content]
        table.add_row(name, *("–" if each is None else compare.digits(each) for each in values))
    return table


def columns(*heads: str, right: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index in right else "left", overflow="fold")
    return table


FILES: Mapping[str, tuple[str, Any, Callable[[Any], Iterator[tuple[str, Table]]]]] = {  # by kind of artifact
    "kernels": ("kernels.json", dict[str, _Kernels], _kernels), "phases": ("phases.json", dict[str, _Phases], _phases),
    "live": ("live.json", _Memory, _memory), "counters": ("counters.json", list[_Counted], _counters),
}  # fmt: skip
