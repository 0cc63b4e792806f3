"""The page of what lies inside a case: the parts of its step, its kernels, its memory's peak, and files about them."""

from collections.abc import Iterator

from attn_lab.records.axes import Family
from attn_lab.records.record import PASSES
from attn_lab.records.record import Record as Row
from attn_lab.report import compare
from attn_lab.report.cells import number
from attn_lab.report.charts import bars
from attn_lab.report.fragment import Cell, Fold, Head, Heading, Picture, Piece, Table, Text
from attn_lab.report.inside import Phase, files, link, phases
from attn_lab.report.study import Study

title = "page_inside"
KERNELS = ("kernels", "kernel_time", "attention_kernels", "busy")
SNAPSHOT = ("snapshot/peak", "snapshot/explained")


def render(study: Study) -> Iterator[Piece]:
    pieces = [*_phases(study), *_kernels(study), *_snapshots(study), *_files(study)]
    if pieces:
        yield Text(study.words["inside_how"], "note")
        yield from pieces


def _phases(study: Study) -> Iterator[Piece]:
    for experiment in study.experiments:
        for family in experiment.families:
            rows = sorted(family.rows, key=lambda row: (compare.order(row), compare.speed(row)))
            steps = [(row, found) for row in rows if (found := phases(row))]
            if steps:
                yield Heading(f"{study.words['phases']}: {experiment.name} · {family.axis or study.words['point']}")
                yield Picture(bars.of_phases(study, family, steps))
                yield Fold(study.words["numbers"], [_parts(study, family, steps)])


def _parts(study: Study, family: Family, steps: list[tuple[Row, list[Phase]]]) -> Table:
    start = [family.axis] if family.axis else []
    lines = []
    for row, found in steps:
        whole = row.number("phases/step") or sum(each.ms for each in found)
        for each in found:
            share, part = 100 * each.ms / whole if whole else None, study.words.get(f"part_{each.part}", each.part)
            lines.append([
                *(Cell(str(row.shape[name]), float(row.shape[name])) for name in start), Cell(row.backend), Cell(part),
                Cell(study.words.get(each.direction, "–")), Cell(compare.digits(each.ms), each.ms),
                Cell("–" if share is None else f"{share:.1f} %", share),
            ])  # fmt: skip
    heads = [*(Head(name, True) for name in start), Head(study.words["backend"]), Head(study.words["part"]),
             Head(study.words["pass"]), Head("ms", True), Head(study.words["share_of_step"], True)]  # fmt: skip
    return Table(study.words["phases_caption"], heads, lines, len(start) + 2)


def _kernels(study: Study) -> Iterator[Piece]:
    lines = [
        [_where(study, row), Cell(row.backend), Cell(study.words[one]),
         *(number(row, f"{one}/{what}") for what in KERNELS)]
        for row in sorted(study.cases, key=lambda row: (compare.order(row), compare.speed(row))) for one in PASSES
        if any(row.number(f"{one}/{what}") is not None for what in KERNELS)
    ]  # fmt: skip
    if lines:
        heads = [Head(study.words["case"]), Head(study.words["backend"]), Head(study.words["pass"]),
                 *(Head(study.words[f"inside_{what}"], True) for what in KERNELS)]  # fmt: skip
        yield Heading(study.words["kernels_head"])
        yield Table(study.words["kernels_caption"], heads, lines, 2)


def _snapshots(study: Study) -> Iterator[Piece]:
    lines = [
        [_where(study, row), Cell(row.backend), *(number(row, metric) for metric in SNAPSHOT)]
        for row in sorted(study.cases, key=lambda row: (compare.order(row), compare.speed(row)))
        if any(row.number(metric) is not None for metric in SNAPSHOT)
    ]  # fmt: skip
    if lines:
        heads = [Head(study.words["case"]), Head(study.words["backend"]),
                 *(Head(study.words[metric], True) for metric in SNAPSHOT)]  # fmt: skip
        yield Heading(study.words["snapshots"])
        yield Table(study.words["snapshots_caption"], heads, lines, 2)


def _files(study: Study) -> Iterator[Piece]:
    lines = []
    for row in sorted(study.rows, key=lambda row: (compare.order(row), row.backend, row.round)):
        for each in files(row):
            path, size = each.get("path"), each.get("size")
            name = str(path).rpartition("/")[2] if path else str(each.get("note") or study.words["left_out"])
            told = f"{size / 2**20:.2f}" if isinstance(size, int) else "–"
            lines.append([_where(study, row), Cell(row.backend), Cell(row.id), Cell(str(each.get("kind"))),
                          Cell(name, file=link(row, path, study.out)),
                          Cell(told, float(size) if isinstance(size, int) else None)])  # fmt: skip
    if lines:
        heads = [Head(study.words[name]) for name in ("case", "backend", "id", "kind", "file")]
        yield Heading(study.words["files_left"])
        yield Table(study.words["files_caption"], [*heads, Head("MB", True)], lines, 2)


def _where(study: Study, row: Row) -> Cell:
    return Cell(" ".join(filter(None, (row.shape_text, compare.text(row, study.more)))))
