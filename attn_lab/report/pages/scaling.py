"""The scaling page: how time grows along each axis, as an exponent with its interval."""

from collections.abc import Iterator
from typing import Any

from attn_lab.records.axes import Family
from attn_lab.records.record import PASSES
from attn_lab.records.stats.fit import Exponent, fit_exponent
from attn_lab.report.charts import Figure, Panel, dots, rounded
from attn_lab.report.data import ReportData
from attn_lab.report.render.blocks import Block, Cell, Head, Heading, Picture, Table, Text

title = "page_scaling"


def render(data: ReportData) -> Iterator[Block]:
    text = False
    for experiment in data.experiments:
        for family in experiment.families:
            fits = _fits(data, family) if family.axis else {}
            if fits:
                if not text:
                    yield Text(data.words["scaling_how"], "note")
                text = True
                yield Heading(f"{family.axis}: {family.held}")
                yield Picture(_figure(data, family, fits))
                yield _table(data, family, fits)


def _fits(data: ReportData, family: Family) -> dict[tuple[str, str], Exponent]:
    """By backend and pass."""
    assert family.axis is not None
    found = {}
    for name in data.backends:
        for one in PASSES:
            seen = sorted((row.shape[family.axis], time) for row in family.rows
                          if row.backend == name and (time := row.number(f"{one}/time")) and time > 0)  # fmt: skip
            if made := fit_exponent([place for place, _ in seen], [time for _, time in seen]):
                found[name, one] = made
    return found


def _figure(data: ReportData, family: Family, fits: dict[tuple[str, str], Exponent]) -> Figure:
    values: list[dict[str, Any]] = [
        {"backend": name, "pass": one, "value": rounded(each.value), "low": rounded(each.low),
         "high": rounded(each.high), "said": str(each)}
        for (name, one), each in fits.items()
    ]  # fmt: skip
    names = tuple(name for name in data.backends if any(name == backend for backend, _ in fits))
    axis = data.say("exponent_of", axis=family.axis)
    passes = [one for one in PASSES if any(one == each for _, each in fits)]
    panels = [
        Panel(data.words[one], dots.whiskers(axis, tuple(data.backends)), {"pass": one, "height": 24 * len(names)})
        for one in passes
    ]
    return Figure(f"scaling-{family.anchor}", axis, data.say("alt_scaling", axis=family.axis), panels, values, names)


def _table(data: ReportData, family: Family, fits: dict[tuple[str, str], Exponent]) -> Table:
    rows = [
        [Cell(name), Cell(data.words[one]), Cell(f"time ~ {family.axis}^{each.value:.2f}", each.value),
         Cell(f"{each.low:.2f}–{each.high:.2f}", each.high - each.low), Cell(f"{each.last:.2f}", each.last),
         Cell(str(each.points), each.points)]
        for (name, one), each in fits.items()
    ]  # fmt: skip
    heads = [
        Head(data.words["backend"]),
        Head(data.words["pass"]),
        Head(data.words["exponent"], True),
        Head(data.words["interval"], True),
        Head(data.words["end_slope"], True),
        Head(data.words["points"], True),
    ]
    return Table(data.say("scaling_caption", axis=family.axis), heads, rows, 2)
