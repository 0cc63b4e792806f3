"""A report as one HTML file that opens anywhere: blocks, figures and the library that draws them, all inside."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from attn_lab.report.charts import Figure, Values, key
from attn_lab.report.charts.palette import PARAMS, config, look_of
from attn_lab.report.data import ReportData
from attn_lab.report.render.blocks import Block, Cell, Details, Picture, Table

LONG = 44  # characters of a cell, beyond which it is shown when pointed at
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, Noto Sans CJK TC, sans-serif"


def page(data: ReportData, title: str, pages: Sequence[tuple[str, str, Sequence[Block]]], library: str) -> str:
    """The whole file; `pages` are names, titles and blocks."""
    import jinja2

    folder = resources.files("attn_lab.report.render") / "template"
    files = {
        name: (folder / name).read_text(encoding="utf-8")
        for name in ("report.html", "report.css", "report.js", "licences.txt")
    }
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    looks = {name: look_of(name) for name in data.backends}
    return environment.from_string(files["report.html"]).render(
        title=title, language=data.language, words=data.words, pages=pages, looks=looks,
        places={name: place for place, name in enumerate(looks)},
        style=files["report.css"], script=files["report.js"], library=library, licences=files["licences.txt"],
        drawing=_drawing(data, figures(block for *_, blocks in pages for block in blocks)),
        kind=lambda block: type(block).__name__, body=lambda table: body(table, data.words["figure"]),
    )  # fmt: skip


def body(table: Table, figure: str) -> str:
    """A table's rows, not by the template: over a hundred thousand cells its loops take four times as long."""
    lines = []
    for row in table.rows:
        cells = [_cell(cell, table.heads[place].right, place < table.leading, figure) for place, cell in enumerate(row)]
        lines.append(f"<tr>{''.join(cells)}</tr>\n")
    return "".join(lines)


def _cell(cell: Cell, right: bool, leading: bool, figure: str) -> str:
    """A number stands at the right and words at the left; other cells are marked."""
    words, number, hover, kind, link, file = cell
    looks = [kind] if kind else []
    if right is (number is None):
        looks.append("right" if right else "left")
    if len(words) > LONG and not leading and kind != "prose":
        looks.append("long")
    shown = '<th scope="row"' if leading else "<td"
    if looks:
        shown += f' class="{" ".join(looks)}"'
    if number is not None:
        shown += f' data-n="{number:.6g}"'
    if hover:
        shown += f' title="{escape(hover)}"'
    text = escape(words, quote=False)
    if link:
        text = f'<a href="#{escape(link)}" aria-label="{escape(figure)} {escape(link)}">{text}</a>'
    if file:
        text = f'<a href="{escape(file)}">{text}</a>'
    return f"{shown}>{text}</{'th' if leading else 'td'}>"


def figures(blocks: Iterable[Block]) -> list[Figure]:
    """All figures among the blocks, in their order."""
    found: list[Figure] = []
    for block in blocks:
        if isinstance(block, Picture):
            found.append(block.figure)
        elif isinstance(block, Details):
            found += figures(block.blocks)
    return found


def _drawing(data: ReportData, drawn: Sequence[Figure]) -> Mapping[str, Any]:
    """What the script draws from: each specification once, and each figure's values once, column by column."""
    specs: dict[str, tuple[int, Any]] = {}
    text = {}
    for figure in drawn:
        panels = []
        for panel in figure.panels:
            number, _ = specs.setdefault(key(panel.spec), (len(specs), panel.spec))
            panels.append({"spec": number, "holes": dict(panel.holes), "title": panel.title})
        text[figure.anchor] = {"alt_text": figure.alt_text, "panels": panels, "columns": _columns(figure.values)}
    themes = {
        "light": config(False, FONT, data.backends) | {"background": None},
        "dark": config(True, FONT, data.backends),
    }
    words = {name: data.words[name] for name in ("rows_shown", "not_drawn", "sort")}
    return {
        "specs": [spec for _, spec in specs.values()],
        "figures": text,
        "params": PARAMS,
        "themes": themes,
        "words": words,
    }


def _columns(values: Values) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for value in values for name in value)
    return {name: [value.get(name) for value in values] for name in names}
