"""The memory page: what the peak of a step is made of."""

from collections.abc import Iterator

from attn_lab.records.axes import Family
from attn_lab.report import compare
from attn_lab.report.charts.bars import STACK, of_stack, parts_of
from attn_lab.report.data import Experiment, ReportData
from attn_lab.report.render.blocks import Block, Cell, Details, Head, Heading, Picture, Table, Text
from attn_lab.report.render.formatting import share

title = "page_memory"


def render(data: ReportData) -> Iterator[Block]:
    measured = False
    for experiment in data.experiments:
        for family in experiment.families:
            if figure := of_stack(data, family):
                if not measured:
                    yield Text(data.words["memory_how"], "note")
                measured = True
                yield Heading(f"{experiment.name} · {family.axis or data.words['point']}")
                yield Picture(figure)
                yield Details(data.words["numbers"], [_table(data, experiment, family)])


def _table(data: ReportData, experiment: Experiment, family: Family) -> Table:
    start = [family.axis] if family.axis else []
    heads = [*(Head(name, True) for name in start), Head(data.words["backend"])]
    heads += [Head(f"{data.words[f'memory/{name}']} MB", True) for name in (*STACK, "peak")]
    heads.append(Head(data.say("share_of", baseline=data.baseline), True))
    rows = [
        [*(Cell(str(row.shape[name]), float(row.shape[name])) for name in start), Cell(row.backend),
         *(Cell(compare.digits(each), each) for each in (*parts, row.number("memory/peak"))),
         share(row, experiment.baseline_of(row))]
        for row in sorted(family.rows, key=lambda row: (compare.order(row), compare.speed(row)))
        if (parts := parts_of(row))
    ]  # fmt: skip
    return Table(data.say("memory_caption", what=family.axis or data.words["point"]), heads, rows, len(start) + 1)
