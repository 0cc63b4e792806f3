"""The energy page: joules a step, and the arithmetic a joule buys."""

from collections.abc import Iterator

from attn_lab.records.axes import Family
from attn_lab.records.record import PASSES
from attn_lab.report import compare
from attn_lab.report.charts import Figure, bars, curves
from attn_lab.report.data import ReportData
from attn_lab.report.render.blocks import Block, Cell, Details, Head, Heading, Picture, Table, Text
from attn_lab.report.render.formatting import number

title = "page_energy"


def render(data: ReportData) -> Iterator[Block]:
    passes = [one for one in PASSES if any(row.number(f"{one}/energy") is not None for row in data.cases)]
    if not passes:
        return
    yield Text(data.words["energy_how"], "note")
    idle = sorted(watts for row in data.cases if (watts := row.number("energy/idle")) is not None)
    if idle:
        ends = dict.fromkeys(map(compare.digits, (idle[0], idle[-1])))
        yield Text(data.say("idle_power", watts="–".join(ends)))
    for experiment in data.experiments:
        for family in experiment.families:
            drawn = [figure for figure in _figures(data, family, passes) if figure]
            if drawn:
                yield Heading(f"{experiment.name} · {family.axis or data.words['point']}")
                yield from map(Picture, drawn)
                yield Details(data.words["numbers"], [_table(data, family, passes)])


def _figures(data: ReportData, family: Family, passes: list[str]) -> Iterator[Figure | None]:
    if family.axis is None:
        metrics = [f"{one}/{what}" for one in passes for what in ("energy", "tflop_per_joule")]
        yield bars.of_point(data, family, metrics, f"energy-{family.anchor}", data.words["alt_energy_point"])
        return
    for one in passes:
        yield curves.of_energy(data, family, one)


def _table(data: ReportData, family: Family, passes: list[str]) -> Table:
    start = [family.axis] if family.axis else []
    metrics = [f"{one}/{what}" for one in passes for what in ("energy", "tflop_per_joule")]
    rows = [
        [*(Cell(str(row.shape[name]), float(row.shape[name])) for name in start), Cell(row.backend),
         *(number(row, metric) for metric in metrics)]
        for row in sorted(family.rows, key=lambda row: (compare.order(row), compare.speed(row))) if row.status == "ok"
    ]  # fmt: skip
    heads = [*(Head(name, True) for name in start), Head(data.words["backend"]),
             *(Head(data.metric(metric), True) for metric in metrics)]  # fmt: skip
    return Table(data.words["page_energy"], heads, rows, len(start) + 1)
