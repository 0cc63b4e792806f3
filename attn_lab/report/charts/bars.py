"""Bars at one point: the backends in the order of their table, a panel for each number, and stacks of memory."""

from collections.abc import Sequence
from functools import cache
from statistics import median_low
from typing import Any

import altair as alt

from attn_lab.records.axes import Family
from attn_lab.records.flags import noise
from attn_lab.records.record import Record
from attn_lab.report import compare
from attn_lab.report.charts import Figure, Panel, Spec, hole, look, rounded
from attn_lab.report.data import ReportData
from attn_lab.report.profiles import Phase

BAR = 22  # pixels
STACK = ("inputs", "saved", "workspace")
MOST_PARTS = 7  # with a colour of their own
DIRECTIONS = ("forward", "backward", "")
CUT = 3  # times the median; see _longest
MOST_STACKS = 4  # places of an axis, from its first to its last; the table has them all
NAMES = alt.Axis(ticks=False, domain=False)
ORDER = alt.EncodingSortField("place", op="min")
AXIS = alt.Axis(format="~r", tickCount=3)
HERE = alt.FieldEqualPredicate(field="at", equal=hole("at"))
ROOM = alt.Scale(domain=[0, hole("most")], nice=False)  # for a number behind the longest bar


def of_point(data: ReportData, family: Family, metrics: Sequence[str], anchor: str, alt_text: str) -> Figure | None:
    """One bar a backend in a panel for each of the metrics; None where none was measured."""
    rows = sorted(family.rows, key=lambda row: (row.status != "ok", compare.speed(row)))
    drawn = [metric for metric in metrics if any(row.number(metric) is not None for row in rows)]
    if not drawn:
        return None
    longest = {metric: _longest(rows, metric) for metric in drawn}
    values = []
    for place, row in enumerate(rows):
        value: dict[str, Any] = {"backend": row.backend, "place": place, "note": row.reasons[0] if row.reasons else ""}
        for count, metric in enumerate(drawn):
            number = row.number(metric)
            value[f"m{count}"] = rounded(number if number is None else min(number, longest[metric])) or 0
            cut = " ▶" * (number is not None and number > longest[metric])
            label = compare.digits(number) + cut + " ≈" * bool(noise(row, metric))
            value[f"said{count}"] = label if row.status == "ok" else data.words[row.status]
        values.append(value)
    names = tuple(data.backends)
    panels = [Panel(data.metric(metric), bars(f"m{count}", f"said{count}", data.metric(metric), names),
                    {"height": BAR * len(rows), "most": 1.25 * max(value[f"m{count}"] for value in values)})
              for count, metric in enumerate(drawn)]  # fmt: skip
    return Figure(anchor, family.held, alt_text, panels, values)


def _longest(rows: Sequence[Record], metric: str) -> float:
    """The length at which bars are cut, so that a few slow backends do not leave the others as stubs.

    A bar is cut if it is more than CUT times the median; it then ends with ▶, and its number is still written.
    Metrics of which more is better are never cut.
    """
    numbers = [number for row in rows if (number := row.number(metric)) is not None]
    costs = metric == "memory/peak" or metric.partition("/")[2] in ("time", "energy")
    contenders = [number for number in numbers if number <= CUT * median_low(numbers)]
    if not costs or len(contenders) == len(numbers):
        return max(numbers, default=0.0)
    return 1.3 * max(contenders)


def of_stack(data: ReportData, family: Family) -> Figure | None:
    """What the peak memory is made of, a panel for each place on the axis; None where it was not measured."""
    values: list[dict[str, Any]] = []
    for place, row in enumerate(sorted(family.rows, key=compare.speed)):
        parts = parts_of(row)
        if parts is None:
            continue
        at = row.shape[family.axis] if family.axis else 0
        for rank, (name, size) in enumerate(zip(STACK, parts, strict=True)):
            values.append({"backend": row.backend, "place": place, "at": at, "part": data.words[f"memory/{name}"],
                           "rank": rank, "size": rounded(size), "peak": rounded(sum(parts))})  # fmt: skip
    if not values:
        return None
    names = tuple(data.words[f"memory/{name}"] for name in STACK)
    return _stacked(data, family, f"memory-{family.anchor}", data.words["alt_stack"], values, names, "MB",
                    data.words["memory/peak"])  # fmt: skip


def _stacked(
    data: ReportData, family: Family, anchor: str, alt_text: str, values: list[dict[str, Any]], parts: tuple[str, ...],
    unit: str, whole: str,
) -> Figure:  # fmt: skip
    spec = stack(parts, unit, whole)
    places = sorted({value["at"] for value in values})
    last = len(places) - 1
    places = sorted({places[round(step * last / (MOST_STACKS - 1))] for step in range(MOST_STACKS)})
    most = {at: 1.25 * max(value["peak"] for value in values if value["at"] == at) for at in places}
    tall = {at: len({value["backend"] for value in values if value["at"] == at}) for at in places}
    titles = {at: f"{family.axis} {at}" if family.axis else whole for at in places}
    panels = [Panel(titles[at], spec, {"at": at, "most": most[at], "height": BAR * tall[at]}) for at in places]
    return Figure(anchor, family.held, alt_text, panels, values)


def of_phases(data: ReportData, family: Family, steps: Sequence[tuple[Record, Sequence[Phase]]]) -> Figure:
    """Where the time of a step goes, one bar a backend; a panel for each place on the axis."""
    parts = _largest([each for _, phases in steps for each in phases], data.words["other_parts"])
    named = tuple(data.words.get(f"part_{part}", part) for part in parts)
    values: list[dict[str, Any]] = []
    for place, (row, phases) in enumerate(steps):
        sizes: dict[tuple[int, int], float] = {}
        for each in phases:
            key = DIRECTIONS.index(each.direction), parts.index(each.part if each.part in parts else parts[-1])
            sizes[key] = sizes.get(key, 0.0) + each.ms
        for rank, ((direction, part), size) in enumerate(sorted(sizes.items())):
            values.append({
                "backend": row.backend, "place": place, "at": row.shape[family.axis] if family.axis else 0,
                "part": named[part], "direction": data.words.get(DIRECTIONS[direction], ""),
                "pale": int(DIRECTIONS[direction] == "backward"), "rank": rank, "size": rounded(size),
                "peak": rounded(sum(sizes.values())),
            })  # fmt: skip
    return _stacked(data, family, f"inside-{family.anchor}", data.words["alt_phases"], values, named, "ms",
                    data.words["step_together"])  # fmt: skip


def _largest(phases: Sequence[Phase], others: str) -> tuple[str, ...]:
    """The parts that take most, as many as there are colours; the rest together."""
    sums: dict[str, float] = {}
    for each in phases:
        sums[each.part] = sums.get(each.part, 0.0) + each.ms
    ordered = sorted(sums, key=lambda part: -sums[part])
    return tuple(ordered if len(ordered) <= MOST_PARTS else [*ordered[: MOST_PARTS - 1], others])


def parts_of(row: Record) -> tuple[float, float, float] | None:
    """What a step is given, what it saves for its backward, and all else at its peak: output, gradients, scratch."""
    peak, inputs = row.number("memory/peak"), row.number("memory/inputs")
    if peak is None or inputs is None:
        return None
    saved = row.number("memory/saved") or 0.0
    return inputs, saved, max(peak - inputs - saved, 0.0)


@cache
def bars(field: str, label: str, title: str, names: tuple[str, ...]) -> Spec:
    base = alt.Chart(look.VALUES).transform_filter(look.SHOWN).encode(
        y=alt.Y("backend:N", sort=ORDER, title=None, axis=NAMES),
        x=alt.X(f"{field}:Q", title=None, axis=AXIS, scale=ROOM),
        tooltip=[alt.Tooltip("backend:N"), alt.Tooltip(f"{label}:N", title=title), alt.Tooltip("note:N")],
    )  # fmt: skip
    drawn = base.mark_bar(height={"band": 0.72}).encode(color=look.colour(names), opacity=look.faint(1))
    return look.spec(alt.layer(drawn, base.mark_text(align="left", dx=4).encode(text=f"{label}:N")))


@cache
def stack(parts: tuple[str, ...], unit: str, whole: str) -> Spec:
    base = alt.Chart(look.VALUES).transform_filter(HERE).transform_filter(look.SHOWN)
    y = alt.Y("backend:N", sort=ORDER, title=None, axis=NAMES)
    # Three differ in lightness alone; more take the theme's colours.
    shades: Any = list(look.PARTS) if len(parts) <= len(look.PARTS) else "ordinal"
    scale, legend = (
        alt.Scale(domain=list(parts), range=shades),
        alt.Legend(orient="top", title=None, columns=3 if len(parts) <= 3 else 2),
    )
    drawn = base.mark_bar(height={"band": 0.72}).encode(
        y=y, x=alt.X("size:Q", title=unit, stack="zero", axis=AXIS, scale=ROOM), order="rank:Q",
        color=alt.Color("part:N", scale=scale, legend=legend), opacity=look.paler(),
        tooltip=[alt.Tooltip("backend:N"), alt.Tooltip("part:N"), alt.Tooltip("direction:N"),
                 alt.Tooltip("size:Q", title=unit, format=".3r"), alt.Tooltip("peak:Q", title=whole, format=".3r")],
    )  # fmt: skip
    first = base.transform_filter("datum.rank == 0")
    ends = first.mark_text(align="left", dx=4).encode(y=y, x="peak:Q", text=alt.Text("peak:Q", format=".3r"))
    return look.spec(alt.layer(drawn, ends))
