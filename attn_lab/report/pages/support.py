"""The support page: which backend answered which case, and in every other case why not."""

from collections.abc import Iterator

from attn_lab.records.record import STATUSES, Record
from attn_lab.report import compare
from attn_lab.report.data import ReportData
from attn_lab.report.render.blocks import Block, Bullets, Cell, Head, Heading, Table, Text

title = "page_support"
SIGNS = {"ok": "✓", "unsupported": "–", "incorrect": "≠"}  # all others: ✕


def render(data: ReportData) -> Iterator[Block]:
    texts = [f"{SIGNS.get(status, '✕')} {data.words[status]}: {data.words[f'{status}_means']}" for status in STATUSES
            if any(row.status == status for row in data.cases)]  # fmt: skip
    yield Text(" · ".join(texts), "note")
    yield _matrix(data)
    reasons = _reasons(data)
    if reasons:
        yield Heading(data.words["reasons"])
        yield Bullets([(line, "") for line in reasons])


def _matrix(data: ReportData) -> Table:
    several = len(data.experiments) > 1
    heads = [Head(data.words["experiment"])] * several + [Head(data.words["case"])]
    rows: list[list[Cell]] = []
    for experiment in data.experiments:
        settings: dict[object, dict[str, Record]] = {}
        for row in sorted(experiment.cases, key=compare.order):
            settings.setdefault(row.setting, {})[row.backend] = row
        for by_name in settings.values():
            first = next(iter(by_name.values()))
            where = " ".join(filter(None, (first.shape_text, compare.text(first, data.more))))
            cells = [_cell(data, by_name.get(name)) for name in data.backends]
            rows.append([Cell(experiment.name)] * several + [Cell(where, len(rows)), *cells])
    return Table(data.words["support_caption"], heads + [Head(name) for name in data.backends], rows, 1 + several)


def _cell(data: ReportData, row: Record | None) -> Cell:
    if row is None:
        return Cell("", hover=data.words["not_measured"])
    return Cell(f"{SIGNS.get(row.status, '✕')} {data.words[row.status]}", STATUSES.index(row.status),
                "; ".join(row.reasons), row.status)  # fmt: skip


def _reasons(data: ReportData) -> list[str]:
    """`flash3: refused: forward-only build (1 case: 16×1024×32×2048 float16)`."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in data.cases:
        if row.status != "ok":
            for reason in row.reasons or [data.words["no_reason"]]:
                found.setdefault((row.backend, row.status, reason), {})[row.shape_text] = None
    lines = []
    for (backend, status, reason), places in sorted(found.items()):
        shown = ", ".join([*places][:4]) + ", …" * (len(places) > 4)
        lines.append(
            f"{backend}: {data.words[status]}: {reason} ({data.say('shapes_count', count=len(places))}: {shown})"
        )
    return lines
