"""Dots with a limit or a whisker: errors against what is allowed, exponents with their intervals, roofs over rates."""

from functools import cache
from typing import Any

import altair as alt

from attn_lab.report.charts import Spec, hole, look

TENSORS = ("#0072B2", "#D55E00", "#8A929E", "#CC79A7", "#009E73", "#E69F00")


@cache
def errors(title: str, names: tuple[str, ...]) -> Spec:
    """Share of the allowed error by backend, all cases as ticks and the worst as a dot; the limit is 1."""
    base = alt.Chart(look.VALUES).transform_filter(look.SHOWN)
    y = alt.Y("backend:N", sort=list(names), title=None, axis=alt.Axis(ticks=False, domain=False, grid=True))
    tooltips = [alt.Tooltip(f"{name}:N") for name in ("backend", "tensor", "where", "note")]
    tooltips.insert(2, alt.Tooltip("share:Q", title=title, format=".3r"))
    x = alt.X("share:Q", title=title, scale=alt.Scale(zero=True))
    drawn = base.mark_point(filled=True, size=70).encode(
        y=y, x=x, tooltip=tooltips, opacity=look.faint(0.85),
        color=alt.Color("tensor:N", scale=alt.Scale(range=list(TENSORS)), legend=alt.Legend(orient="top", title=None)),
        shape=alt.Shape("tensor:N", legend=alt.Legend(orient="top", title=None)),
    )  # fmt: skip
    limit = alt.Chart(look.VALUES).mark_rule(strokeDash=[4, 4], strokeWidth=1.5).encode(x=alt.XDatum(1))
    return look.spec(alt.layer(drawn, limit))


@cache
def kinds(title: str, kinds: tuple[str, ...]) -> Spec:
    """The kinds of time of a pass at one place by backend: a colour and a mark for each kind."""
    base = (
        alt.Chart(look.VALUES)
        .transform_filter(alt.FieldEqualPredicate(field="pass", equal=hole("pass")))
        .transform_filter(alt.FieldEqualPredicate(field="at", equal=hole("at")))
        .transform_filter(look.SHOWN)
    )
    y = alt.Y("backend:N", sort=hole("names"), title=None, axis=alt.Axis(ticks=False, domain=False, grid=True))
    x = alt.X("ms:Q", title=title, scale=alt.Scale(type="log", nice=False, padding=10)).axis(format="~r", tickCount=5)
    tooltips = [alt.Tooltip("backend:N"), alt.Tooltip("kind:N"), alt.Tooltip("ms:Q", title=title, format=".3r"),
            alt.Tooltip("note:N")]  # fmt: skip
    legend = alt.Legend(orient="top", title=None, columns=2)
    drawn = base.mark_point(filled=True, size=70).encode(
        y=y, x=x, tooltip=tooltips, opacity=look.faint(0.85),
        color=alt.Color("kind:N", scale=alt.Scale(domain=list(kinds), range=list(TENSORS)), legend=legend),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=list(kinds)), legend=legend),
    )  # fmt: skip
    return look.spec(alt.layer(drawn))


@cache
def whiskers(title: str, names: tuple[str, ...]) -> Spec:
    """A fitted number by backend, with its interval."""
    base = (
        alt.Chart(look.VALUES)
        .transform_filter(alt.FieldEqualPredicate(field="pass", equal=hole("pass")))
        .transform_filter(look.SHOWN)
    )
    y = alt.Y("backend:N", sort=list(names), title=None, axis=alt.Axis(ticks=False, domain=False, grid=True))
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, nice=True))
    tooltips = [alt.Tooltip("backend:N"), alt.Tooltip("said:N", title=title)]
    rule = base.mark_rule(strokeWidth=2).encode(
        y=y, x=alt.X("low:Q", title=title), x2="high:Q", color=look.colour(names), opacity=look.faint(1)
    )
    dot = base.mark_point(filled=True, size=70).encode(
        y=y, x=x, color=look.colour(names), shape=look.shape(names), tooltip=tooltips, opacity=look.faint(1)
    )
    return look.spec(alt.layer(rule, dot))


@cache
def roofs(across: str, up: str, names: tuple[str, ...]) -> Spec:
    """Rates over intensity under the measured roofs."""
    base: Any = alt.Chart(look.VALUES)
    x = alt.X("intensity:Q", title=across, scale=alt.Scale(type="log", nice=False, padding=10)).axis(
        format="~r", tickCount=5
    )
    y = alt.Y("tflops:Q", title=up, scale=alt.Scale(type="log", nice=False, padding=10)).axis(format="~r", tickCount=5)
    roof = (
        base.transform_filter("datum.roof").mark_line(strokeWidth=2, color="#8A929E").encode(x=x, y=y, detail="roof:N")
    )
    tooltips = [alt.Tooltip(f"{name}:N") for name in ("backend", "where")]
    tooltips += [alt.Tooltip("tflops:Q", title=up, format=".3r"), alt.Tooltip("share:Q", title="%", format=".3r")]
    dots = (
        base.transform_filter(alt.FieldEqualPredicate(field="pass", equal=hole("pass")))
        .transform_filter(look.SHOWN)
        .mark_point(filled=True)
    )
    dots = dots.encode(
        x=x, y=y, color=look.colour(names), shape=look.shape(names), tooltip=tooltips, opacity=look.faint(0.9)
    )
    return look.spec(alt.layer(roof, dots), 260)
