"""What a page is made of, said once: HTML and Markdown are two ways to write it down."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from attn_lab.report.charts import Figure
from attn_lab.report.data import ReportData


class Text(NamedTuple):
    """A paragraph; `kind` is "", "lead", "note" or "warning"."""

    words: str
    kind: str = ""
    link: str = ""


class Heading(NamedTuple):
    words: str
    anchor: str = ""
    level: int = 3


class Bullets(NamedTuple):
    """Lines, each with the anchor of the figure or page that shows it, or "" for none."""

    lines: Sequence[tuple[str, str]]


class KeyValues(NamedTuple):
    """Labels and values, read at a glance."""

    pairs: Sequence[tuple[str, str]]


class Cell(NamedTuple):
    """`number` is what it sorts by; `hover` what more there is to say; `link` the anchor of what shows it, or a `file`.

    `kind` is a status, to be seen from afar, or "prose".
    """

    words: str
    number: float | None = None
    hover: str = ""
    kind: str = ""
    link: str = ""
    file: str = ""  # beside the report, as a URL


class Head(NamedTuple):
    words: str
    right: bool = False


class Table(NamedTuple):
    """The first `leading` columns name their row."""

    caption: str
    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    leading: int = 1


class Picture(NamedTuple):
    figure: Figure


class Details(NamedTuple):
    """Blocks that are shown when asked for."""

    words: str
    blocks: Sequence["Block"]


Block = Text | Heading | Bullets | KeyValues | Table | Picture | Details


class Page(Protocol):
    """A module in pages/.  `title` is the catalogue key of its title.

    A page with nothing to show yields nothing: it is then neither written nor in the navigation.
    """

    title: str

    def render(self, data: ReportData) -> Iterable[Block]: ...
