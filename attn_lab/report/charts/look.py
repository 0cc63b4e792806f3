"""What all charts share: which backends are shown or highlighted, and the channels for colour, mark and dash."""

from typing import Any

import altair as alt

from attn_lab.report.charts import hole
from attn_lab.report.charts.palette import look_of

PARTS = ("#8A929E", "#3D93D6", "#E69F00")  # of a stack: told apart by lightness alone, on either ground
SHOWN = "indexof(hidden, datum.backend) < 0"
FAINT = "focus && focus != datum.backend"
HEIGHT = hole("height")
VALUES = alt.NamedData("values")


def colour(names: tuple[str, ...]) -> Any:
    return alt.Color("backend:N", scale=alt.Scale(domain=list(names)), legend=None)


def fill(names: tuple[str, ...], hollow: str) -> Any:
    """The same colour inside a mark, and none where the expression holds."""
    hole = {"test": hollow, "value": "transparent"}
    return alt.Fill("backend:N", scale=alt.Scale(domain=list(names)), legend=None, condition=hole)


def shape(names: tuple[str, ...]) -> Any:
    return alt.Shape("backend:N", scale=alt.Scale(domain=list(names)), legend=None)


def dash(names: tuple[str, ...]) -> Any:
    scale = alt.Scale(domain=list(names), range=[look_of(name).dash for name in names])
    return alt.StrokeDash("backend:N", scale=scale, legend=None)


def faint(full: float) -> Any:
    """Opacity of a mark: less, while another backend is highlighted."""
    return alt.OpacityValue(full, condition={"test": FAINT, "value": full * 0.2})  # `condition` would check it: slow


def paler() -> Any:
    """The same of a part in a stack, and paler where its value says `pale`."""
    return alt.OpacityValue(1, condition=[{"test": FAINT, "value": 0.2}, {"test": "datum.pale", "value": 0.55}])


def spec(chart: Any, height: int | str = HEIGHT) -> dict[str, Any]:
    """The chart as Vega-Lite.  Unchecked, for speed: tests check every kind of chart against the schema."""
    made: dict[str, Any] = chart.to_dict(validate=False) | {"height": height}
    for stray in ("$schema", "config"):
        made.pop(stray, None)
    return made
