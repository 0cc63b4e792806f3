"""Memory over a step as one page of HTML that opens anywhere: what each part holds, and the largest at the peak."""

from collections.abc import Sequence
from html import escape

from attn_lab.inside.allocations import Use

MB = 2**20
WIDTH, HEIGHT, LEFT, BOTTOM = 960, 360, 70, 30
MOST_POINTS = 400
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#eeca3b", "#b279a2", "#ff9da6", "#9d755d", "#bab0ac")
STYLE = (
    "body{font:14px/1.45 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "svg{width:100%;height:auto}text{fill:currentColor;font-size:12px}table{border-collapse:collapse}"
    "td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #8884}td.n,th.n{text-align:right}"
    ".key{display:inline-block;width:.8em;height:.8em;margin:0 .4em 0 1em}"
)


def page(use: Use, title: str, most: int = 10) -> str:
    """`most`: how many of the largest live tensors are told."""
    names = list(use.levels)
    keys = "".join(
        f'<span class="key" style="background:{colour};opacity:{shade}"></span>{escape(name)}'
        for name, (colour, shade) in _shades(names).items()
    )
    rows = "".join(
        f'<tr><td class="n">{each.bytes / MB:.4g}</td><td class="n">{100 * each.bytes / (use.peak or 1):.1f} %</td>'
        f"<td>{escape(each.part)}</td><td>{escape(each.operator)}</td><td>{escape(each.line)}</td></tr>"
        for each in use.live[:most]
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1><p>Peak {use.peak / MB:.4g} MB, of {len(use.live)} tensors.</p>{_drawing(use)}"
        f"<p>{keys}</p><h2>The {min(most, len(use.live))} largest at the peak</h2><table><tr><th class=n>MB</th>"
        f"<th class=n>share</th><th>part</th><th>operator</th><th>made by</th></tr>{rows}</table></html>\n"
    )


def _drawing(use: Use) -> str:
    """Areas, one on the other, that change in steps."""
    kept = _kept(use)
    end = use.times[kept[-1]] or 1.0
    high = use.peak or 1

    def x(time: float) -> str:
        return f"{LEFT + (WIDTH - LEFT) * time / end:.1f}"

    def y(level: float) -> str:
        return f"{(HEIGHT - BOTTOM) * (1 - level / high * 0.95):.1f}"

    below = [0] * len(kept)
    areas = []
    shades = _shades(list(use.levels))
    for name, levels in use.levels.items():
        above = [base + levels[point] for base, point in zip(below, kept, strict=True)]
        edge = [*_steps(use.times, kept, above), *reversed(_steps(use.times, kept, below))]
        path = " ".join(f"{x(time)},{y(level)}" for time, level in edge)
        colour, shade = shades[name]
        areas.append(f'<polygon points="{path}" fill="{colour}" fill-opacity="{shade}">'
                     f"<title>{escape(name)}</title></polygon>")  # fmt: skip
        below = above
    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{y(high * share)}" text-anchor="end">{high * share / MB:.3g} MB</text>'
        for share in (0, 0.5, 1)
    )
    axis = f'<text x="{LEFT}" y="{HEIGHT - 8}">0</text>'
    axis += f'<text x="{WIDTH}" y="{HEIGHT - 8}" text-anchor="end">{end:.3g} ms</text>'
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="memory over time">'
    return f"{head}{''.join(areas)}{ticks}{axis}</svg>"


def _shades(names: Sequence[str]) -> dict[str, tuple[str, float]]:
    """A colour for each part; paler what it takes for its backward."""
    parts = list(dict.fromkeys(name.removesuffix(", backward") for name in names))
    return {
        name: (COLOURS[parts.index(name.removesuffix(", backward")) % len(COLOURS)],
               0.55 if name.endswith(", backward") else 1.0)
        for name in names
    }  # fmt: skip


def _steps(times: Sequence[float], kept: Sequence[int], levels: Sequence[int]) -> list[tuple[float, int]]:
    """A level holds until the next begins."""
    points: list[tuple[float, int]] = []
    for point, level in zip(kept, levels, strict=True):
        if points:
            points.append((times[point], points[-1][1]))
        points.append((times[point], level))
    return points


def _kept(use: Use) -> list[int]:
    """Which points are drawn: all, or of many neighbours the highest, so that the peak is always there."""
    totals = [sum(levels) for levels in zip(*use.levels.values(), strict=True)]
    size = -(-len(totals) // MOST_POINTS)
    groups = (range(at, min(at + size, len(totals))) for at in range(0, len(totals), size))
    return sorted({0, *(max(group, key=totals.__getitem__) for group in groups), len(totals) - 1})
