"""The memory page: what the peak of a step is made of."""

from collections.abc import Iterator

from attn_lab.records.axes import Family
from attn_lab.report import compare
from attn_lab.report.cells import share
from attn_lab.report.charts.bars import STACK, of_stack, parts_of
from attn_lab.report.fragment import Cell, Fold, Head, Heading, Picture, Piece, Table, Text
from attn_lab.report.study import Experiment, Study

title = "page_memory"


def render(study: Study) -> Iterator[Piece]:
    measured = False
    for experiment in study.experiments:
        for family in experiment.families:
            if figure := of_stack(study, family):
                if not measured:
                    yield Text(study.words["memory_how"], "note")
                measured = True
                yield Heading(f"{experiment.name} · {family.axis or study.words['point']}")
                yield Picture(figure)
                yield Fold(study.words["numbers"], [_table(study, experiment, family)])
    if not measured:
        yield Text(study.words["not_measured"])


def _table(study: Study, experiment: Experiment, family: Family) -> Table:
    start = [family.axis] if family.axis else []
    heads = [*(Head(name, True) for name in start), Head(study.words["backend"])]
    heads += [Head(f"{study.words[f'memory/{name}']} MB", True) for name in (*STACK, "peak")]
    heads.append(Head(study.say("share_of", baseline=study.baseline), True))
    rows = [
        [*(Cell(str(row.shape[name]), float(row.shape[name])) for name in start), Cell(row.backend),
         *(Cell(compare.digits(each), each) for each in (*parts, row.number("memory/peak"))),
         share(row, experiment.beside(row))]
        for row in sorted(family.rows, key=lambda row: (compare.order(row), compare.speed(row)))
        if (parts := parts_of(row))
    ]  # fmt: skip
    return Table(study.say("memory_caption", what=family.axis or study.words["point"]), heads, rows, len(start) + 1)
