"""The scaling page: how time grows along each axis, as an exponent with its interval."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from attn_lab.report.charts import Figure, Panel, dots, rounded
from attn_lab.report.families import Family
from attn_lab.report.fragment import Cell, Head, Heading, Picture, Piece, Table, Text
from attn_lab.report.read import PASSES
from attn_lab.report.study import Study

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


def render(study: Study) -> Iterator[Piece]:
    told = False
    for experiment in study.experiments:
        for family in experiment.families:
            fits = _fits(study, family) if family.axis else {}
            if fits:
                if not told:
                    yield Text(study.words["scaling_how"], "note")
                told = True
                yield Heading(f"{family.axis}: {family.held}")
                yield Picture(_figure(study, family, fits))
                yield _table(study, family, fits)
    if not told:
        yield Text(study.say("no_scaling", least=LEAST))


def _fits(study: Study, family: Family) -> dict[tuple[str, str], Fit]:
    """By backend and pass."""
    assert family.axis is not None
    found = {}
    for name in study.backends:
        for one in PASSES:
            seen = sorted((row.shape[family.axis], time) for row in family.rows
                          if row.backend == name and (time := row.number(f"{one}/time")) and time > 0)  # fmt: skip
            if made := fit([place for place, _ in seen], [time for _, time in seen]):
                found[name, one] = made
    return found


def _figure(study: Study, family: Family, fits: dict[tuple[str, str], Fit]) -> Figure:
    values: list[dict[str, Any]] = [
        {"backend": name, "pass": one, "value": rounded(each.exponent), "low": rounded(each.low),
         "high": rounded(each.high), "said": str(each)}
        for (name, one), each in fits.items()
    ]  # fmt: skip
    names = tuple(name for name in study.backends if any(name == backend for backend, _ in fits))
    axis = study.say("exponent_of", axis=family.axis)
    passes = [one for one in PASSES if any(one == each for _, each in fits)]
    panels = [
        Panel(study.words[one], dots.whiskers(axis, tuple(study.backends)), {"pass": one, "height": 24 * len(names)})
        for one in passes
    ]
    return Figure(f"scaling-{family.anchor}", axis, study.say("alt_scaling", axis=family.axis), panels, values, names)


def _table(study: Study, family: Family, fits: dict[tuple[str, str], Fit]) -> Table:
    rows = [
        [Cell(name), Cell(study.words[one]), Cell(f"time ~ {family.axis}^{each.exponent:.2f}", each.exponent),
         Cell(f"{each.low:.2f}–{each.high:.2f}", each.high - each.low), Cell(f"{each.end:.2f}", each.end),
         Cell(str(each.places), each.places)]
        for (name, one), each in fits.items()
    ]  # fmt: skip
    heads = [
        Head(study.words["backend"]),
        Head(study.words["pass"]),
        Head(study.words["exponent"], True),
        Head(study.words["interval"], True),
        Head(study.words["end_slope"], True),
        Head(study.words["points"], True),
    ]
    return Table(study.say("scaling_caption", axis=family.axis), heads, rows, 2)
