"""The scaling page: how time grows along each axis, as an exponent with its interval."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from attn_lab.report.charts import Figure, Panel, dots, rounded
from attn_lab.report.data import ReportData
from attn_lab.report.families import Family
from attn_lab.report.read import PASSES
from attn_lab.report.render.blocks import Block, Cell, Head, Heading, Picture, Table, Text

title = "page_scaling"
LEAST = 3  # places on the axis: two make a line, and no interval
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)  # t at 97.5 %, for 1 … 10 degrees


class Fit(NamedTuple):
    """time ~ axis^exponent; low, high: its 95 % interval; `end`: the exponent between the two largest places."""

    exponent: float
    low: float
    high: float
    end: float
    places: int

    def __str__(self) -> str:
        return f"{self.exponent:.2f} ({self.low:.2f}–{self.high:.2f})"


def fit(places: Sequence[float], times: Sequence[float]) -> Fit | None:
    """The least-squares line through the logarithms; None for fewer than LEAST different places."""
    if len(set(places)) < LEAST:
        return None
    x, y = [math.log(place) for place in places], [math.log(time) for time in times]
    count, middle = len(x), sum(x) / len(x)
    spread = sum((each - middle) ** 2 for each in x)
    slope = sum((a - middle) * b for a, b in zip(x, y, strict=True)) / spread
    start = sum(y) / count - slope * middle
    left = sum((b - start - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    error = math.sqrt(left / (count - 2) / spread)
    width = error * (STUDENT[count - 3] if count - 3 < len(STUDENT) else 2.1)
    return Fit(slope, slope - width, slope + width, (y[-1] - y[-2]) / (x[-1] - x[-2]), count)


def render(data: ReportData) -> Iterator[Block]:
    told = False
    for experiment in data.experiments:
        for family in experiment.families:
            fits = _fits(data, family) if family.axis else {}
            if fits:
                if not told:
                    yield Text(data.words["scaling_how"], "note")
                told = True
                yield Heading(f"{family.axis}: {family.held}")
                yield Picture(_figure(data, family, fits))
                yield _table(data, family, fits)


def _fits(data: ReportData, family: Family) -> dict[tuple[str, str], Fit]:
    """By backend and pass."""
    assert family.axis is not None
    found = {}
    for name in data.backends:
        for one in PASSES:
            seen = sorted((row.shape[family.axis], time) for row in family.rows
                          if row.backend == name and (time := row.number(f"{one}/time")) and time > 0)  # fmt: skip
            if made := fit([place for place, _ in seen], [time for _, time in seen]):
                found[name, one] = made
    return found


def _figure(data: ReportData, family: Family, fits: dict[tuple[str, str], Fit]) -> Figure:
    values: list[dict[str, Any]] = [
        {"backend": name, "pass": one, "value": rounded(each.exponent), "low": rounded(each.low),
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


def _table(data: ReportData, family: Family, fits: dict[tuple[str, str], Fit]) -> Table:
    rows = [
        [Cell(name), Cell(data.words[one]), Cell(f"time ~ {family.axis}^{each.exponent:.2f}", each.exponent),
         Cell(f"{each.low:.2f}–{each.high:.2f}", each.high - each.low), Cell(f"{each.end:.2f}", each.end),
         Cell(str(each.places), each.places)]
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
