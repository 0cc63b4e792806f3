"""The scaling page: how time grows along each axis, as an exponent with its interval."""

from collections.abc import Iterator
from typing import Any

from attn_lab.records.axes import Family
from attn_lab.records.record import PASSES
from attn_lab.records.stats.fit import LEAST_POINTS, Exponent, fit_exponent
from attn_lab.report.charts import Figure, Panel, dots, rounded
from attn_lab.report.fragment import Cell, Head, Heading, Picture, Piece, Table, Text
from attn_lab.report.study import Study

title = "page_scaling"


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
        yield Text(study.say("no_scaling", least=LEAST_POINTS))


def _fits(study: Study, family: Family) -> dict[tuple[str, str], Exponent]:
    """By backend and pass."""
    assert family.axis is not None
    found = {}
    for name in study.backends:
        for one in PASSES:
            seen = sorted((row.shape[family.axis], time) for row in family.rows
                          if row.backend == name and (time := row.number(f"{one}/time")) and time > 0)  # fmt: skip
            if made := fit_exponent([place for place, _ in seen], [time for _, time in seen]):
                found[name, one] = made
    return found


def _figure(study: Study, family: Family, fits: dict[tuple[str, str], Exponent]) -> Figure:
    values: list[dict[str, Any]] = [
        {"backend": name, "pass": one, "value": rounded(each.value), "low": rounded(each.low),
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


def _table(study: Study, family: Family, fits: dict[tuple[str, str], Exponent]) -> Table:
    rows = [
        [Cell(name), Cell(study.words[one]), Cell(f"time ~ {family.axis}^{each.value:.2f}", each.value),
         Cell(f"{each.low:.2f}–{each.high:.2f}", each.high - each.low), Cell(f"{each.last:.2f}", each.last),
         Cell(str(each.points), each.points)]
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
