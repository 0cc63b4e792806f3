"""The support page: which backend answered which case, and in every other case why not."""

from collections.abc import Iterator

from attn_lab.records.record import STATUSES
from attn_lab.records.record import Record as Row
from attn_lab.report import compare
from attn_lab.report.fragment import Bullets, Cell, Head, Heading, Piece, Table, Text
from attn_lab.report.study import Study

title = "page_support"
SIGNS = {"ok": "✓", "refused": "–", "wrong": "≠"}  # all others: ✕


def render(study: Study) -> Iterator[Piece]:
    told = [f"{SIGNS.get(status, '✕')} {study.words[status]}: {study.words[f'{status}_means']}" for status in STATUSES
            if any(row.status == status for row in study.cases)]  # fmt: skip
    yield Text(" · ".join(told), "note")
    yield _matrix(study)
    reasons = _reasons(study)
    if reasons:
        yield Heading(study.words["reasons"])
        yield Bullets([(line, "") for line in reasons])


def _matrix(study: Study) -> Table:
    several = len(study.experiments) > 1
    heads = [Head(study.words["experiment"])] * several + [Head(study.words["case"])]
    rows: list[list[Cell]] = []
    for experiment in study.experiments:
        settings: dict[object, dict[str, Row]] = {}
        for row in sorted(experiment.cases, key=compare.order):
            settings.setdefault(row.setting, {})[row.backend] = row
        for by_name in settings.values():
            first = next(iter(by_name.values()))
            where = " ".join(filter(None, (first.shape_text, compare.text(first, study.more))))
            cells = [_cell(study, by_name.get(name)) for name in study.backends]
            rows.append([Cell(experiment.name)] * several + [Cell(where, len(rows)), *cells])
    return Table(study.words["support_caption"], heads + [Head(name) for name in study.backends], rows, 1 + several)


def _cell(study: Study, row: Row | None) -> Cell:
    if row is None:
        return Cell("", hover=study.words["not_asked"])
    return Cell(f"{SIGNS.get(row.status, '✕')} {study.words[row.status]}", STATUSES.index(row.status),
                "; ".join(row.reasons), row.status)  # fmt: skip


def _reasons(study: Study) -> list[str]:
    """`flash3: refused: forward-only build (1 case: 16×1024×32×2048 float16)`."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in study.cases:
        if row.status != "ok":
            for reason in row.reasons or [study.words["no_reason"]]:
                found.setdefault((row.backend, row.status, reason), {})[row.shape_text] = None
    lines = []
    for (backend, status, reason), places in sorted(found.items()):
        shown = ", ".join([*places][:4]) + ", …" * (len(places) > 4)
        lines.append(
            f"{backend}: {study.words[status]}: {reason} ({study.say('shapes_count', count=len(places))}: {shown})"
        )
    return lines
