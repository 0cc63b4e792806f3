"""The study's pictures: one PNG for a swept axis, one for a single shape, drawn for a page about 1000 pixels wide."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_lab.report.compare import BASELINE, digits, speed
from attn_lab.report.read import PASSES, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito; its black: the baseline
MARKERS = "os^DvPX<>hp*"
MOST_BYTES = 150_000
STYLE: dict[str, Any] = {
    "font.size": 8.5, "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.grid": True, "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.edgecolor": "#777777", "axes.spines.top": False,
    "axes.spines.right": False, "xtick.color": "#444444", "ytick.color": "#444444", "lines.linewidth": 1.5,
    "lines.markersize": 4.5, "legend.frameon": False, "text.parse_math": False, "font.family": "DejaVu Sans",
}  # fmt: skip
# text.parse_math: a name with dollar signs is a name, not a formula
Look = Mapping[str, Any]


def looks(backends: Sequence[str]) -> dict[str, Look]:
    """Colour, marker and line of each backend, the same in all pictures; after six, the colours come again dashed."""
    found: dict[str, Look] = {BASELINE: {"color": "black", "marker": "s", "linestyle": "-"}}
    for count, name in enumerate(sorted(set(backends) - {BASELINE})):
        turn, colour = divmod(count, len(COLOURS))
        found[name] = {
            "color": COLOURS[colour], "marker": MARKERS[count % len(MARKERS)], "linestyle": ("-", "--", ":")[turn % 3],
            "markerfacecolor": "white" if turn % 2 else COLOURS[colour],
        }  # fmt: skip
    return found


def draw_axis(path: Path, rows: Sequence[Row], axis: str, title: str, look: Mapping[str, Look]) -> bool:
    """Time, TFLOP/s and peak memory over one axis, a line a backend; `rows` are pooled and of one family.

    False, and no file, where nothing was measured.
    """
    passes = [one for one in PASSES if _any(rows, f"{one}/time")]
    upper = [(f"{one}/time", f"{_word(one)} time (ms)") for one in passes]
    upper += [("memory/peak", "peak memory (MB)")] if _any(rows, "memory/peak") else []
    lower = [(f"{one}/tflops", f"{_word(one)} TFLOP/s") for one in passes if _any(rows, f"{one}/tflops")]
    if not upper:
        return False
    names = [name for name in look if any(row.backend == name and row.status != "refused" for row in rows)]
    handles = [_handle(look[name]) for name in names]
    labels = [" " * name.startswith("_") + name[:28] for name in names]  # a first "_" would hide it from the legend
    if any(row.status not in ("ok", "refused") for row in rows):
        handles.append(_handle({"color": "#777777", "marker": "x", "linestyle": ""}))
        labels.append("no result (see table)")
    corner = len(upper) > len(lower) > 0 and len(labels) <= 14  # room under the memory
    height = (5.6 if lower else 3.2) + (0 if corner else 0.2 * math.ceil(len(labels) / 4))
    with _figure(path, title, (10.4, height)) as figure:
        grid = figure.subplots(2 if lower else 1, max(len(upper), len(lower)), squeeze=False)
        for line, metrics in zip(grid, (upper, lower), strict=False):
            for spot, (metric, heading) in zip(line, metrics, strict=False):
                _curves(spot, rows, axis, metric, look, logarithmic=metrics is upper)
                spot.set_title(heading, loc="left")
            for spot in line[len(metrics) :]:
                spot.set_axis_off()
        if corner:
            grid[1][-1].legend(handles, labels, loc="center", handlelength=2.6, labelspacing=0.55).set_in_layout(False)
        else:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), handlelength=2.6)
    return True


def draw_point(path: Path, rows: Sequence[Row], title: str, look: Mapping[str, Look]) -> bool:
    """The backends at one shape as bars, in the order of the table: a time for each pass, and peak memory.

    False, and no file, where nothing was measured.
    """
    rows = sorted(rows, key=lambda row: (row.status != "ok", speed(row)))
    wanted = [(f"{one}/time", f"{_word(one)} time (ms)") for one in PASSES] + [("memory/peak", "peak memory (MB)")]
    wanted = [one for one in wanted if _any(rows, one[0])]

    if not wanted:
        return False
    with _figure(path, title, (10.4, 1.1 + 0.27 * max(len(rows), 3))) as figure:
        spots = figure.subplots(1, len(wanted), squeeze=False, sharey=True)[0]
        for spot, (metric, heading) in zip(spots, wanted, strict=True):
            values = [row.number(metric) or 0.0 for row in rows]
            longest = max(values) or 1.0
            for place, (row, value) in enumerate(zip(rows, values, strict=True)):
                mine = look[row.backend]
                hatch = "////" if mine.get("markerfacecolor") == "white" else ""  # its colour's second turn
                spot.barh(place, value, height=0.68, color=mine["color"], hatch=hatch, edgecolor="white", linewidth=0)
                said = digits(row.number(metric)) if row.status == "ok" else row.status
                style = "normal" if row.status == "ok" else "italic"
                spot.text(value + longest * 0.02, place, said, va="center", fontsize=7.5, style=style)
            spot.set(xlim=(0, longest * 1.22), ylim=(len(rows) - 0.4, -0.6))
            spot.set_title(heading, loc="left")
            spot.set_yticks(range(len(rows)), [row.backend[:28] for row in rows])
            spot.grid(visible=False, axis="y")
            spot.tick_params(axis="y", length=0)
    return True


def _curves(
    spot: "Axes", rows: Sequence[Row], axis: str, metric: str, look: Mapping[str, Look], *, logarithmic: bool
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for name, style in look.items():
        seen = [(row.shape[axis], value, row.number(metric, "low") or value, row.number(metric, "high") or value)
                for row in sorted(rows, key=lambda row: row.shape[axis])
                if row.backend == name and (value := row.number(metric)) is not None and value > 0]  # fmt: skip
        if seen:
            places, values, lows, highs = zip(*seen, strict=True)
            spot.fill_between(places, lows, highs, color=style["color"], alpha=0.18, linewidth=0)
            spot.plot(places, values, **style)
    ticks = sorted({row.shape[axis] for row in rows})
    if ticks[-1] >= 4 * ticks[0]:
        spot.set_xscale("log", base=2)
        spot.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
    labels = [str(tick) for tick in ticks]
    spot.set_xticks(ticks, labels, rotation=35 if len(" ".join(labels)) > 24 else 0)
    spot.xaxis.set_minor_locator(NullLocator())
    spot.set_xlabel(axis)
    if logarithmic:
        spot.set_yscale("log")
        low, high = spot.get_ylim()
        spot.set_ylim(low, _lost(spot, rows, axis, look, low, high))
        spot.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
        spot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value <= high else ""))
        spot.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    else:
        spot.set_ylim(bottom=0)


def _lost(spot: "Axes", rows: Sequence[Row], axis: str, look: Mapping[str, Look], low: float, high: float) -> float:
    """Crosses on a strip above all curves, a line a backend, where a case failed; the new top of the panel."""
    lost = [row for row in rows if row.status not in ("ok", "refused")]
    names = [name for name in look if any(row.backend == name for row in lost)]
    step = (high / low) ** min(0.065, 0.3 / (len(names) or 1))
    top = high * step ** (len(names) + 0.7 * bool(names))
    spot.axhspan(high, top, color="#f1f1f1", linewidth=0, zorder=0.5)
    for count, name in enumerate(names, start=1):
        places = [row.shape[axis] for row in lost if row.backend == name]
        height = high * step ** (count - 0.15)
        spot.plot(places, [height] * len(places), "x", color=look[name]["color"], markersize=4.5)
    return top


@contextmanager
def _figure(path: Path, title: str, size: tuple[float, float]) -> Iterator["Figure"]:
    """Saved as sharp as the bytes allow.  Without pyplot: a caller's own figures and back end stay as they are."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=9, color="#333333")
        yield figure
        for dpi in (192, 160, 128, 96):
            drawn, packed = BytesIO(), BytesIO()
            figure.savefig(drawn, dpi=dpi, format="png")
            Image.open(drawn).convert("RGB").quantize(128).save(packed, "png", optimize=True)
            if packed.tell() <= MOST_BYTES:
                break
    path.write_bytes(packed.getvalue())


def _handle(look: Look) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], **look)


def _any(rows: Sequence[Row], metric: str) -> bool:
    return any(row.number(metric) is not None for row in rows)


def _word(one: str) -> str:
    return {"forward_backward": "step", "train_step": "train step"}.get(one, one)
