"""One look for each backend in every chart and report, safe for colour-blind eyes, and the theme of all charts."""

import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

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
DASHES = ([1, 0], [6, 3], [2, 2])
# On white and on black, after Okabe and Ito and Paul Tol; each at least 3:1 against its ground except yellow and cyan.
COLOURS = (
    ("#000000", "#f5f5f5"), ("#0072B2", "#4FA8E0"), ("#D55E00", "#FF8A47"), ("#009E73", "#2FC99A"),
    ("#CC79A7", "#E5A3C8"), ("#E69F00", "#F0B428"), ("#56B4E9", "#A6DCFF"), ("#6F4BB8", "#A58BE8"),
    ("#882255", "#D9709F"), ("#7F8896", "#A8B0BC"), ("#7A7A1F", "#C6C65A"), ("#8C564B", "#C79A8F"),
    ("#332288", "#8C94F5"), ("#117733", "#6CC784"),
)  # fmt: skip
LIGHT, DARK = (tuple(pair[ground] for pair in COLOURS) for ground in (0, 1))
# A new backend takes a place at the end, so that the others keep theirs.
KNOWN = (
    "naive", "sdpa_flash", "flash4", "sdpa_cudnn", "flash2", "sdpa_efficient", "flash3", "flex",
    "sdpa_cudnn+flash4", "sdpa_math", "auto", "naive_fp32", "xformers", "paired",
)  # fmt: skip


class Look(NamedTuple):
    """How a backend is drawn: its colour on white and on black, its mark (an SVG path), the dashes of its line."""

    light: str
    dark: str
    shape: str
    dash: list[int]


@cache
def look_of(backend: str) -> Look:
    """The same for a name in every report: from the table, or for any other name from a hash of it."""
    known = backend in KNOWN
    place = KNOWN.index(backend) if known else zlib.crc32(backend.encode())
    light, dark = COLOURS[place % len(COLOURS)]
    dash = place // len(SHAPES) if known else 1 + place // 7 % 2
    return Look(light, dark, SHAPES[place // (1 if known else 5) % len(SHAPES)], DASHES[dash % len(DASHES)])


PARAMS: list[dict[str, Any]] = [
    {"name": "hidden", "value": []},
    {"name": "focus", "value": ""},
]  # every chart listens to these two


def config(dark: bool, font: str, backends: Sequence[str]) -> dict[str, Any]:
    """The Vega-Lite theme for dark or light ground; `backends` are the domain of every backend scale, in its order."""
    looks = [look_of(name) for name in backends]
    ink, pale, rule = ("#e8eaed", "#aab1bb", "#343a44") if dark else ("#1c1f24", "#59616c", "#e3e6ea")
    return {
        "background": None if dark else "#ffffff",
        "font": font,
        "view": {"stroke": None},
        "range": {
            "category": [look.dark if dark else look.light for look in looks],
            "symbol": [look.shape for look in looks],
            "ordinal": list((DARK if dark else LIGHT)[1:]),  # for parts of a stack
        },
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
