"""Colours and marks told apart by all eyes, on white and on black, and the theme every chart is dressed in."""

from typing import Any

# Okabe and Ito's colours, the baseline's first; on dark ground lightened to at least 4.5:1, yellow for its blue's twin.
LIGHT = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DARK = ("#f5f5f5", "#4FA8E0", "#FF8A47", "#2FC99A", "#E5A3C8", "#F0B428", "#F0E442")
SHAPES = (  # within -1…1, for legends of our own to draw what Vega draws
    "M-.85,-.85H.85V.85H-.85Z",
    "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0Z",
    "M0,-1.1L1.05,.8H-1.05Z",
    "M0,-1.2L1.1,0L0,1.2L-1.1,0Z",
    "M0,1.1L1.05,-.8H-1.05Z",
    "M-.38,-1.1H.38V-.38H1.1V.38H.38V1.1H-.38V.38H-1.1V-.38H-.38Z",
    "M0,-1.2L.3,-.38L1.15,-.38L.48,.15L.7,1L0,.5L-.7,1L-.48,.15L-1.15,-.38L-.3,-.38Z",
    "M-1.1,-.75L-.75,-1.1L0,-.35L.75,-1.1L1.1,-.75L.35,0L1.1,.75L.75,1.1L0,.35L-.75,1.1L-1.1,.75L-.35,0Z",
)
PARAMS: list[dict[str, Any]] = [
    {"name": "hidden", "value": []},
    {"name": "focus", "value": ""},
]  # every chart listens to these two


def config(dark: bool, font: str) -> dict[str, Any]:
    """The theme: what a page switches, and a file is printed in."""
    ink, pale, rule = ("#e8eaed", "#aab1bb", "#343a44") if dark else ("#1c1f24", "#59616c", "#e3e6ea")
    return {
        "background": None if dark else "#ffffff",
        "font": font,
        "view": {"stroke": None},
        "range": {"category": list(DARK if dark else LIGHT), "symbol": list(SHAPES)},
        "axis": {
            "labelColor": pale, "titleColor": pale, "gridColor": rule, "domainColor": pale, "tickColor": pale,
            "titleFontWeight": "normal", "labelFontSize": 11, "titleFontSize": 11, "labelLimit": 170,
        },
        "legend": {"labelColor": ink, "titleColor": pale, "labelFontSize": 11, "symbolSize": 70},
        "title": {"color": ink, "fontSize": 13, "subtitleColor": pale, "anchor": "start", "fontWeight": 600},
        "text": {"color": ink, "fontSize": 11},
        "rule": {"color": pale},
        "point": {"size": 52},
        "line": {"strokeWidth": 1.8},
    }  # fmt: skip
