"""The energy page: joules a step, and the arithmetic a joule buys."""

from collections.abc import Iterator

from attn_lab.records.axes import Family
from attn_lab.records.record import PASSES
from attn_lab.report import compare
from attn_lab.report.cells import number
from attn_lab.report.charts import Figure, bars, curves
from attn_lab.report.fragment import Cell, Fold, Head, Heading, Picture, Piece, Table, Text
from attn_lab.report.study import Study

title = "page_energy"


def render(study: Study) -> Iterator[Piece]:
    passes = [one for one in PASSES if any(row.number(f"{one}/energy") is not None for row in study.cases)]
    if not passes:
        yield Text(study.words["not_measured"])
        return
    yield Text(study.words["energy_how"], "note")
    idle = sorted(watts for row in study.cases if (watts := row.number("energy/idle")) is not None)
    if idle:
        ends = dict.fromkeys(map(compare.digits, (idle[0], idle[-1])))
        yield Text(study.say("idle_power", watts="–".join(ends)))
    for experiment in study.experiments:
        for family in experiment.families:
            drawn = [figure for figure in _figures(study, family, passes) if figure]
            if drawn:
                yield Heading(f"{experiment.name} · {family.axis or study.words['point']}")
                yield from map(Picture, drawn)
                yield Fold(study.words["numbers"], [_table(study, family, passes)])


def _figures(study: Study, family: Family, passes: list[str]) -> Iterator[Figure | None]:
    if family.axis is None:
        metrics = [f"{one}/{what}" for one in passes for what in ("energy", "tflop_per_joule")]
        yield bars.of_point(study, family, metrics, f"energy-{family.anchor}", study.words["alt_energy_point"])
        return
    for one in passes:
        yield curves.of_energy(study, family, one)


def _table(study: Study, family: Family, passes: list[str]) -> Table:
    start = [family.axis] if family.axis else []
    metrics = [f"{one}/{what}" for one in passes for what in ("energy", "tflop_per_joule")]
    rows = [
        [*(Cell(str(row.shape[name]), float(row.shape[name])) for name in start), Cell(row.backend),
         *(number(row, metric) for metric in metrics)]
        for row in sorted(family.rows, key=lambda row: (compare.order(row), compare.speed(row))) if row.status == "ok"
    ]  # fmt: skip
    heads = [*(Head(name, True) for name in start), Head(study.words["backend"]),
             *(Head(study.metric(metric), True) for metric in metrics)]  # fmt: skip
    return Table(study.words["page_energy"], heads, rows, len(start) + 1)
