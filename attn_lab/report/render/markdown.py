"""A report as GitHub's Markdown: blocks as text that stays text, whatever the records hold."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache

from attn_lab.report.data import ReportData
from attn_lab.report.render.blocks import Block, Bullets, Cell, Details, Head, Heading, KeyValues, Picture, Table, Text

MOST_ROWS = 400  # of one table: GitHub shows no file much larger than half a megabyte


def page(
    data: ReportData, title: str, pages: Iterable[tuple[str, str, Sequence[Block]]], pictures: Collection[str]
) -> str:
    """The whole report; `pages` are names, titles and blocks, `pictures` the anchors that have a file in figures/."""
    parts = [f"# {escape(title)}"]
    for name, heading, blocks in pages:
        parts.append(f'<a id="{name}"></a>\n\n## {escape(heading)}')
        for block in blocks:
            parts += _lines(data, block, pictures)
    return "\n\n".join(parts) + "\n"


def _lines(data: ReportData, block: Block, pictures: Collection[str]) -> Iterator[str]:
    match block:
        case Text(words, "warning"):
            yield f"> [!WARNING]\n> {escape(words)}"
        case Text(words, _):
            yield escape(words)
        case Heading(words, anchor, level):
            yield f'<a id="{anchor}"></a>\n' * bool(anchor) + f"{'#' * level} {escape(words)}"
        case Bullets(lines):
            yield "\n".join(f"- {escape(words)}" + f" [↗](#{link})" * bool(link) for words, link in lines)
        case KeyValues(pairs):
            heads = [Head(data.words["what"]), Head(data.words["value"])]
            yield _table(data, heads, [[Cell(label), Cell(value)] for label, value in pairs])
        case Table(caption, heads, rows, _):
            yield f"**{escape(caption)}**"
            yield _table(data, heads, rows)
        case Picture(figure):
            name = figure.anchor
            there = f"![{escape(figure.alt_text)}](figures/{name}.png)"
            missing = escape(data.say("picture_in_html", count=len(pictures)))
            yield f'<a id="{name}"></a>\n\n**{escape(figure.title)}**'
            yield there if name in pictures else missing
        case Details(words, blocks):
            yield f"<details><summary>{escape(words)}</summary>"
            for each in blocks:
                yield from _lines(data, each, pictures)
            yield "</details>"


def _table(data: ReportData, heads: Sequence[Head], rows: Sequence[Sequence[Cell]]) -> str:
    lines = [[_cell(cell) for cell in row] for row in rows[:MOST_ROWS]]
    right = [place for place, head in enumerate(heads) if head.right]
    text = table([escape(head.words) for head in heads], lines, right=right)
    return text + f"\n\n{data.say('more_rows', count=len(rows) - MOST_ROWS)}" * (len(rows) > MOST_ROWS)


def _cell(cell: Cell) -> str:
    target = f"#{cell.link}" if cell.link else cell.file
    return f"[{escape(cell.words)}]({target})" if target else escape(cell.words)


@lru_cache(maxsize=2**14)  # of all cells' words one in ten is new
def escape(words: str) -> str:
    """The words as GitHub's Markdown that shows them, whatever they hold."""
    words = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    words = re.sub(r":(?=//)|(?<![\d:]):(?=[\w+-]+:)", "&#58;", words)  # neither a link nor an emoji
    words = re.sub(r"(?i)\bwww\.", lambda found: found[0][:3] + "&#46;", words)
    words = re.sub(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", words)
    return re.sub(r"^(\d+(?=[.)](?:\s|$))|(?=[#+=-]+(?:\s|$)))", r"\1\\", words)  # no heading, rule or list


def code(words: str) -> str:
    """The words in a code span, fit for a table."""
    fence = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    space = " " * ("`" in words)
    return f"{fence}{space}{words}{space}{fence}".replace("|", "\\|")


def table(heads: Sequence[str], lines: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """A table of cells that are escaped already; the columns in `right` are numbers."""
    rule = ["---:" if place in right else "---" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))
