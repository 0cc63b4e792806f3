"""The page of what lies inside a case: the parts of its step, its kernels, its memory's peak, and files about them."""

from collections.abc import Iterator

from attn_lab.records.axes import Family
from attn_lab.records.record import PASSES, Record
from attn_lab.report import compare
from attn_lab.report.charts import bars
from attn_lab.report.data import ReportData
from attn_lab.report.profiles import Phase, files, link, phases
from attn_lab.report.render.blocks import Block, Cell, Details, Head, Heading, Picture, Table, Text
from attn_lab.report.render.formatting import number

title = "page_inside"
KERNELS = ("kernels", "kernel_time", "attention_kernels", "busy")
SNAPSHOT = ("snapshot/peak", "snapshot/explained")


def render(data: ReportData) -> Iterator[Block]:
    blocks = [*_phases(data), *_kernels(data), *_snapshots(data), *_files(data)]
    if blocks:
        yield Text(data.words["inside_how"], "note")
        yield from blocks


def _phases(data: ReportData) -> Iterator[Block]:
    for experiment in data.experiments:
        for family in experiment.families:
            rows = sorted(family.rows, key=lambda row: (compare.order(row), compare.speed(row)))
            steps = [(row, found) for row in rows if (found := phases(row))]
            if steps:
                yield Heading(f"{data.words['phases']}: {experiment.name} · {family.axis or data.words['point']}")
                yield Picture(bars.of_phases(data, family, steps))
                yield Details(data.words["numbers"], [_parts(data, family, steps)])


def _parts(data: ReportData, family: Family, steps: list[tuple[Record, list[Phase]]]) -> Table:
    start = [family.axis] if family.axis else []
    lines = []
    for row, found in steps:
        whole = row.number("phases/step") or sum(each.ms for each in found)
        for each in found:
            share, part = 100 * each.ms / whole if whole else None, data.words.get(f"part_{each.part}", each.part)
            lines.append([
                *(Cell(str(row.shape[name]), float(row.shape[name])) for name in start), Cell(row.backend), Cell(part),
                Cell(data.words.get(each.direction, "–")), Cell(compare.digits(each.ms), each.ms),
                Cell("–" if share is None else f"{share:.1f} %", share),
            ])  # fmt: skip
    heads = [*(Head(name, True) for name in start), Head(data.words["backend"]), Head(data.words["part"]),
             Head(data.words["pass"]), Head("ms", True), Head(data.words["share_of_step"], True)]  # fmt: skip
    return Table(data.words["phases_caption"], heads, lines, len(start) + 2)


def _kernels(data: ReportData) -> Iterator[Block]:
    lines = [
        [_where(data, row), Cell(row.backend), Cell(data.words[one]),
         *(number(row, f"{one}/{what}") for what in KERNELS)]
        for row in sorted(data.cases, key=lambda row: (compare.order(row), compare.speed(row))) for one in PASSES
        if any(row.number(f"{one}/{what}") is not None for what in KERNELS)
    ]  # fmt: skip
    if lines:
        heads = [Head(data.words["case"]), Head(data.words["backend"]), Head(data.words["pass"]),
                 *(Head(data.words[f"inside_{what}"], True) for what in KERNELS)]  # fmt: skip
        yield Heading(data.words["kernels_head"])
        yield Table(data.words["kernels_caption"], heads, lines, 2)


def _snapshots(data: ReportData) -> Iterator[Block]:
    lines = [
        [_where(data, row), Cell(row.backend), *(number(row, metric) for metric in SNAPSHOT)]
        for row in sorted(data.cases, key=lambda row: (compare.order(row), compare.speed(row)))
        if any(row.number(metric) is not None for metric in SNAPSHOT)
    ]  # fmt: skip
    if lines:
        heads = [Head(data.words["case"]), Head(data.words["backend"]),
                 *(Head(data.words[metric], True) for metric in SNAPSHOT)]  # fmt: skip
        yield Heading(data.words["snapshots"])
        yield Table(data.words["snapshots_caption"], heads, lines, 2)


def _files(data: ReportData) -> Iterator[Block]:
    lines = []
    for row in sorted(data.rows, key=lambda row: (compare.order(row), row.backend, row.round)):
        for each in files(row):
            path, size = each.get("path"), each.get("size")
            name = str(path).rpartition("/")[2] if path else str(each.get("note") or data.words["left_out"])
            texts = f"{size / 2**20:.2f}" if isinstance(size, int) else "–"
            lines.append([_where(data, row), Cell(row.backend), Cell(row.id), Cell(str(each.get("kind"))),
                          Cell(name, file=link(row, path, data.out)),
                          Cell(texts, float(size) if isinstance(size, int) else None)])  # fmt: skip
    if lines:
        heads = [Head(data.words[name]) for name in ("case", "backend", "id", "kind", "file")]
        yield Heading(data.words["files_left"])
        yield Table(data.words["files_caption"], [*heads, Head("MB", True)], lines, 2)


def _where(data: ReportData, row: Record) -> Cell:
    return Cell(" ".join(filter(None, (row.shape_text, compare.text(row, data.more)))))
