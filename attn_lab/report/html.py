"""A report as one HTML file that opens anywhere: pieces, figures and the library that draws them, all inside."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from attn_lab.report.charts import Figure, Values, key
from attn_lab.report.charts.palette import DARK, LIGHT, PARAMS, SHAPES, config
from attn_lab.report.fragment import Cell, Fold, Picture, Piece, Table
from attn_lab.report.study import Study

LONG = 44  # characters of a cell, beyond which it is shown when pointed at
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, Noto Sans CJK TC, sans-serif"


def page(study: Study, title: str, pages: Sequence[tuple[str, str, Sequence[Piece]]], library: str) -> str:
    """The whole file; `pages` are names, titles and pieces."""
    import jinja2

    folder = resources.files("attn_lab.report") / "template"
    files = {
        name: (folder / name).read_text(encoding="utf-8")
        for name in ("report.html", "report.css", "report.js", "licences.txt")
    }
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    marks = {name: (SHAPES[place % len(SHAPES)], place % len(LIGHT)) for place, name in enumerate(study.backends)}
    return environment.from_string(files["report.html"]).render(
        title=title, language=study.language, words=study.words, pages=pages, marks=marks, light=LIGHT, dark=DARK,
        style=files["report.css"], script=files["report.js"], library=library, licences=files["licences.txt"],
        drawing=_drawing(study, figures(piece for *_, pieces in pages for piece in pieces)),
        kind=lambda piece: type(piece).__name__, body=lambda table: body(table, study.words["figure"]),
    )  # fmt: skip


def body(table: Table, figure: str) -> str:
    """A table's rows, not by the template: over a hundred thousand cells its loops take four times as long."""
    lines = []
    for row in table.rows:
        cells = [_cell(cell, table.heads[place].right, place < table.leading, figure) for place, cell in enumerate(row)]
        lines.append(f"<tr>{''.join(cells)}</tr>\n")
    return "".join(lines)


def _cell(cell: Cell, right: bool, leading: bool, figure: str) -> str:
    """A number stands at the right and words at the left; a cell that does not is told so."""
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
    told = escape(words, quote=False)
    if link:
        told = f'<a href="#{escape(link)}" aria-label="{escape(figure)} {escape(link)}">{told}</a>'
    if file:
        told = f'<a href="{escape(file)}">{told}</a>'
    return f"{shown}>{told}</{'th' if leading else 'td'}>"


def figures(pieces: Iterable[Piece]) -> list[Figure]:
    """All figures among the pieces, in their order."""
    found: list[Figure] = []
    for piece in pieces:
        if isinstance(piece, Picture):
            found.append(piece.figure)
        elif isinstance(piece, Fold):
            found += figures(piece.pieces)
    return found


def _drawing(study: Study, drawn: Sequence[Figure]) -> Mapping[str, Any]:
    """What the script draws from: each specification once, and each figure's values once, column by column."""
    specs: dict[str, tuple[int, Any]] = {}
    told = {}
    for figure in drawn:
        panels = []
        for panel in figure.panels:
            number, _ = specs.setdefault(key(panel.spec), (len(specs), panel.spec))
            panels.append({"spec": number, "holes": dict(panel.holes), "title": panel.title})
        told[figure.anchor] = {"told": figure.told, "panels": panels, "columns": _columns(figure.values)}
    themes = {"light": config(dark=False, font=FONT) | {"background": None}, "dark": config(dark=True, font=FONT)}
    words = {name: study.words[name] for name in ("rows_shown", "not_drawn", "sort")}
    return {
        "specs": [spec for _, spec in specs.values()],
        "figures": told,
        "params": PARAMS,
        "themes": themes,
        "words": words,
    }


def _columns(values: Values) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for value in values for name in value)
    return {name: [value.get(name) for value in values] for name in names}
