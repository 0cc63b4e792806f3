"""Lines along a swept axis: one a backend, with a band for its interval, and crosses where a case has no number."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import altair as alt

from attn_lab.records.axes import Family
from attn_lab.records.flags import noise
from attn_lab.records.record import Record
from attn_lab.report import compare
from attn_lab.report.charts import Figure, Panel, Spec, hole, look, rounded
from attn_lab.report.data import Experiment, ReportData

HEIGHT = 210


def of_pass(data: ReportData, experiment: Experiment, family: Family, one: str) -> Figure | None:
    """Time, TFLOP/s and speed-up of one pass along the family's axis; None where nothing was timed."""
    metrics = {"time": f"{one}/time", "tflops": f"{one}/tflops"}
    values = [_value(row, family, metrics) for row in family.rows]
    for value, row in zip(values, family.rows, strict=True):
        verdict = experiment.verdict(row, experiment.baseline_of(row), one)
        if verdict and row.backend != data.baseline:
            alt_text = data.say("speedup_text", verdict=verdict, word=data.words[verdict.word])
            low, high = rounded(verdict.low) or None, rounded(verdict.high)  # neither 0 nor infinity has a place
            known = low is not None and high is not None
            numbers = (rounded(verdict.ratio), low if known else None, high if known else None)
            value |= dict(zip(_parts("speedup"), numbers, strict=True)) | {"speedup_text": alt_text}
    alt_text = data.say("alt_pass", what=data.words[one], axis=family.axis, baseline=data.baseline)
    return _figure(data, family, one, f"{data.words[one]}: {family.axis}", alt_text, values,
                   {"time": data.words["time_ms"], "tflops": "TFLOP/s",
                    "speedup": data.say("speedup_against", baseline=data.baseline)})  # fmt: skip


def of_memory(data: ReportData, experiment: Experiment, family: Family) -> Figure | None:
    """Peak memory along the family's axis, and its share of the baseline's; None where none was measured."""
    values = [_value(row, family, {"memory": "memory/peak"}) for row in family.rows]
    for value, row in zip(values, family.rows, strict=True):
        share = compare.memory_share(row, experiment.baseline_of(row))
        if share is not None and row.backend != data.baseline:
            value["share"] = rounded(100 * share)
    alt_text = data.say("alt_memory", axis=family.axis, baseline=data.baseline)
    return _figure(data, family, "memory", f"{data.words['memory/peak']}: {family.axis}", alt_text, values,
                   {"memory": "MB", "share": data.say("share_of", baseline=data.baseline)})  # fmt: skip


def of_energy(data: ReportData, family: Family, one: str) -> Figure | None:
    """Joules a step and TFLOP a joule along the family's axis; None where none was measured."""
    values = [_value(row, family, {"energy": f"{one}/energy", "economy": f"{one}/tflop_per_joule"})
              for row in family.rows]  # fmt: skip
    alt_text = data.say("alt_energy", what=data.words[one], axis=family.axis)
    figure = _figure(data, family, one, f"{data.words[one]}: {family.axis}", alt_text, values,
                     {"energy": data.words["energy_j"], "economy": data.words["tflop_per_joule"]})  # fmt: skip
    return figure and replace(figure, anchor=f"energy-{figure.anchor.removeprefix('figures-')}")


def of_training(data: ReportData, family: Family) -> Figure | None:
    """Tokens a second, MFU and attention's share of a training step along the family's axis; None without any."""
    fields = {"tokens": "tokens_per_second", "mfu": "mfu", "attention": "attention_share"}
    values = [_value(row, family, {name: f"train_step/{what}" for name, what in fields.items()}) for row in family.rows]
    alt_text = data.say("alt_training", axis=family.axis)
    figure = _figure(data, family, "train_step", f"{data.words['train_step']}: {family.axis}", alt_text, values,
                     {name: data.words[what] for name, what in fields.items()})  # fmt: skip
    return figure and replace(figure, anchor=f"models-{family.anchor}")


LINEAR = ("tflops", "economy", "tokens", "mfu", "attention")  # from zero; all others are logarithmic
RATIOS = {"speedup": 1, "share": 100}  # fields with a line where the two are equal


def _figure(
    data: ReportData, family: Family, what: str, title: str, alt_text: str, values: list[dict[str, Any]],
    fields: dict[str, str],
) -> Figure | None:  # fmt: skip
    drawn = [name for name in fields if any(value.get(name) for value in values)]
    if not drawn or family.axis is None:
        return None
    lost = _place_lost(values, drawn[0])
    ticks = sorted({row.shape[family.axis] for row in family.rows})
    names = [name for name in data.backends if any(value["backend"] == name and _has(value, drawn) for value in values)]
    wide = ticks[-1] >= 4 * ticks[0]
    panels = [
        Panel(fields[name], curve(name, tuple(data.backends), wide, lost and name == drawn[0]),
              {"ticks": ticks, "axis": family.axis, "title": fields[name]})
        for name in drawn
    ]  # fmt: skip
    axis, _, place = family.anchor.partition("-")
    anchor = f"figures-{axis}-{what}{f'-{place}' if place else ''}"
    return Figure(anchor, title, alt_text, panels, values, names)


def _has(value: dict[str, Any], fields: Sequence[str]) -> bool:
    return any(value.get(name) for name in (*fields, "lost"))


def _parts(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def _value(row: Record, family: Family, metrics: dict[str, str]) -> dict[str, Any]:
    assert family.axis is not None
    value: dict[str, Any] = {"x": row.shape[family.axis], "backend": row.backend}
    for name, metric in metrics.items():
        if (number := row.number(metric)) and number > 0:
            low, high = row.number(metric, "low"), row.number(metric, "high")
            low, high = (each if each and each > 0 else number for each in (low, high))
            value |= dict(zip(_parts(name), map(rounded, (number, low, high)), strict=True))
            if why := noise(row, metric):
                value["note"] = why
    if row.status not in ("ok", "unsupported"):
        value["status"] = row.status
        value["note"] = row.reasons[0] if row.reasons else ""
    return value


def _place_lost(values: list[dict[str, Any]], name: str) -> bool:
    """A cross for each failed case above all lines, a height of its own for each backend.  False if none failed."""
    top = max((value.get(f"{name}_high") or 0 for value in values), default=0)
    failed = sorted({value["backend"] for value in values if value.get("status")})
    for value in values:
        if value.get("status"):
            value["lost"] = rounded(top * 1.5 ** (failed.index(value["backend"]) + 1))
    return bool(failed)


@cache
def curve(field: str, names: tuple[str, ...], wide: bool, lost: bool) -> Spec:
    """The specification of one panel; its title, its axis and the axis' ticks are left open."""
    across = (
        alt.Scale(type="log", base=2, nice=False, padding=10) if wide else alt.Scale(zero=False, nice=False, padding=10)
    )
    up = alt.Scale(zero=True) if field in LINEAR else alt.Scale(type="log", nice=False, padding=8)
    x = alt.X("x:Q", title=hole("axis"), scale=across).axis(
        values=hole("ticks"), format="d", grid=False, labelOverlap="parity", labelFlush=False
    )
    y = alt.Y(f"{field}:Q", title=None, scale=up).axis(format="~r", tickCount=5)
    seen = alt.Chart(look.VALUES).transform_filter(f"isValid(datum.{field}) && {look.SHOWN}").encode(x=x)
    low, high = f"{field}_low", f"{field}_high"
    tooltips = [
        alt.Tooltip("backend:N"),
        alt.Tooltip("x:Q", title=hole("axis")),
        alt.Tooltip(f"{field}:Q", title=hole("title"), format=".3r"),
    ]
    if field == "speedup":
        tooltips[-1] = alt.Tooltip("speedup_text:N", title=hole("title"))
    elif field in ("time", "tflops"):
        tooltips += [
            alt.Tooltip(f"{low}:Q", title="p05", format=".3r"),
            alt.Tooltip(f"{high}:Q", title="p95", format=".3r"),
        ]
    tooltips.append(alt.Tooltip("note:N"))
    layers = [
        seen.mark_line().encode(
            y=y, color=look.colour(names), strokeDash=look.dash(names), opacity=look.faint(1)
        ),
        seen.mark_point(filled=True).encode(
            y=y, shape=look.shape(names), opacity=look.faint(1), tooltip=tooltips,
            stroke=look.colour(names),
            fill=look.fill(names, "isValid(datum.note)"),
        ),
    ]  # fmt: skip
    if field != "share":
        sure = seen.transform_filter(f"isValid(datum.{low})")
        band = alt.Y(f"{low}:Q", title=None, scale=up)
        layers.insert(
            0, sure.mark_area().encode(y=band, y2=f"{high}:Q", color=look.colour(names), opacity=look.faint(0.2))
        )
    if field in RATIOS:
        layers.insert(0, alt.Chart(look.VALUES).mark_rule(strokeDash=[4, 4]).encode(y=alt.YDatum(RATIOS[field])))
    if lost:
        gone = alt.Chart(look.VALUES).transform_filter(f"isValid(datum.lost) && {look.SHOWN}")
        why = [
            alt.Tooltip("backend:N"),
            alt.Tooltip("x:Q", title=hole("axis")),
            alt.Tooltip("status:N"),
            alt.Tooltip("note:N"),
        ]
        layers.append(gone.mark_text(text="✕", fontSize=12, fontWeight="bold").encode(
            x=x, y=alt.Y("lost:Q", title=None, scale=up), color=look.colour(names), opacity=look.faint(1), tooltip=why
        ))  # fmt: skip
    return look.spec(alt.layer(*layers), HEIGHT)
