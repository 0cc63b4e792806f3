"""Figures as files: the panels of each on one sheet with a title and a legend, as SVG and PNG."""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar
from xml.sax.saxutils import escape, quoteattr

from attn_lab.core.errors import BadRequest
from attn_lab.report.charts import Figure, Panel
from attn_lab.report.charts.palette import PARAMS, config, look_of

WIDTH, GAP, TOP = 300, 22, 34
ACROSS = 4  # panels beside each other
FONT = "sans-serif"  # looking for any other, text by text, takes half of the time
MOST_WORKERS = 8
SAFE_PATH = "PYTHONSAFEPATH"  # Python files in the working directory are not imported
SHARP = 1.25  # pixels of a picture for each of the page's
PATIENCE = 300.0  # seconds for an answer of a drawing process; a figure takes one
Answer = TypeVar("Answer")


@contextmanager
def draw_pool() -> Iterator[ProcessPoolExecutor]:
    """Processes that draw while pages are made: Vega answers one call at a time, and Python waits for its answer.

    One that draws takes half a second to start: there are as many as have something to do.  Raises BadRequest where
    one is killed.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"  # before the pool, which starts a process of its own
    pool = ProcessPoolExecutor(min(os.cpu_count() or 1, MOST_WORKERS), mp_context=get_context("spawn"))
    try:
        yield pool
    except BrokenProcessPool:
        raise _no_figures("a drawing process was killed") from None
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:  # nothing more is expected of them, and one that is stopped would be waited for
            process.kill()
            process.join()
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


def result_of(future: Future[Answer]) -> Answer:
    """What a drawing process made.  Raises BadRequest where it gives no answer."""
    try:
        return future.result(PATIENCE)
    except TimeoutError:
        raise _no_figures(f"no answer in {PATIENCE:g} s") from None


def _no_figures(why: str) -> BadRequest:
    return BadRequest(f"report: expected drawing processes that live until the figures are made; got {why}; "
                      "the same command tries again")  # fmt: skip


def chart_library() -> str:
    """Vega, Vega-Lite and vega-embed as one script, bundled by vl-convert.  Takes about a second."""
    import vl_convert

    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def draw(figure: Figure, folder: Path, backends: Sequence[str]) -> None:
    """Write a figure as NAME.svg and NAME.png into the folder; `backends` are all of the report's."""
    import vl_convert

    svg = sheet(figure, backends)
    (folder / f"{figure.anchor}.svg").write_text(svg, encoding="utf-8")
    (folder / f"{figure.anchor}.png").write_bytes(vl_convert.svg_to_png(svg, scale=SHARP))


def sheet(figure: Figure, backends: Sequence[str]) -> str:
    """The figure as one SVG on white."""
    drawn = [_panel(figure, panel, place, backends) for place, panel in enumerate(figure.panels)]
    parts, top, right = [], float(TOP), 0.0
    for start in range(0, len(drawn), ACROSS):
        line, left = drawn[start : start + ACROSS], float(GAP)
        for svg, width, _ in line:
            parts.append(f'<svg x="{left:g}" y="{top:g}"{svg.removeprefix("<svg")}')
            left += width + GAP
        top, right = top + max(height for *_, height in line) + 14, max(right, left)
    legend, bottom = _legend(figure.backends, top + 4, right)
    title = f'<text x="{GAP}" y="21" font-size="14" font-weight="600">{escape(figure.title)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{right:g}" '
        f'height="{bottom:g}" viewBox="0 0 {right:g} {bottom:g}" font-family={quoteattr(FONT)} fill="#1c1f24" '
        f'role="img" aria-label={quoteattr(figure.alt_text)}><rect width="100%" height="100%" fill="#ffffff"/>'
        f"{title}{''.join(parts)}{legend}</svg>"
    )


def _panel(figure: Figure, panel: Panel, place: int, backends: Sequence[str]) -> tuple[str, float, float]:
    """One panel's SVG, with names of its own for what it defines; its width and height."""
    import vl_convert

    spec: dict[str, Any] = {
        **panel.filled(), "params": PARAMS, "datasets": {"values": list(figure.values)}, "width": WIDTH,
        "title": panel.title, "config": config(dark=False, font=FONT, backends=backends), "padding": 4,
    }  # fmt: skip
    svg = str(vl_convert.vegalite_to_svg(spec))
    svg = re.sub(r'(id="|url\(#)(clip|gradient)', rf"\g<1>p{place}\2", svg)
    width, height = (float(found) for found in re.findall(r'^<svg[^>]*? width="([\d.]+)" height="([\d.]+)"', svg)[0])
    return svg, width, height


def _legend(names: Sequence[str], top: float, right: float) -> tuple[str, float]:
    """A mark and a name for each, wrapped; and where it ends."""
    parts, left = [], float(GAP)
    for name in names:
        look = look_of(name)
        wide = 34 + 7.4 * sum(1 + (ord(char) > 0x2E80) for char in name[:40])
        if left > GAP and left + wide > right:
            left, top = float(GAP), top + 20
        parts.append(
            f'<path d="{look.shape}" transform="translate({left + 6:g} {top + 6:g}) scale(4.6)" '
            f'fill="{look.light}"/><text x="{left + 17:g}" y="{top + 10:g}" font-size="12">'
            f"{escape(name[:40])}</text>"
        )
        left += wide
    return "".join(parts), top + (24 if names else 0)
