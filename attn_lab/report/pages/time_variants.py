"""The page of kinds of time: what a pass takes cold, hot, as a CUDA graph, on its host and in its kernels alone."""

from collections.abc import Iterator
from typing import Any

from attn_lab.records.axes import Family
from attn_lab.records.record import PASSES, Record
from attn_lab.report import compare
from attn_lab.report.charts import Figure, Panel, dots, rounded
from attn_lab.report.data import ReportData
from attn_lab.report.render.blocks import Block, Bullets, Cell, Details, Head, Heading, Picture, Table, Text
from attn_lab.report.render.formatting import number

title = "page_kinds"
KINDS = ("time", "time_hot", "time_graph", "time_host", "time_kernels", "time_sustained")
ROW = 26  # pixels


def render(data: ReportData) -> Iterator[Block]:
    measured = False
    for experiment in data.experiments:
        for family in experiment.families:
            rows = [row for row in family.rows if any(row.number(f"{one}/{kind}") for one, kind in _columns())]
            if not rows:
                continue
            if not measured:
                yield Text(data.words["kinds_how"], "note")
            measured = True
            rows.sort(key=lambda row: (compare.order(row), compare.speed(row)))
            yield Heading(f"{experiment.name} · {family.axis or data.words['point']}")
            yield Picture(_figure(data, family, rows))
            yield Details(data.words["numbers"], [_table(data, family, rows)])
            if notes := _notes(data, family, rows):
                yield Bullets([(note, "") for note in notes])


def _columns() -> list[tuple[str, str]]:
    """All but the time that every case has."""
    return [(one, kind) for one in PASSES for kind in KINDS[1:]]


def _passes(rows: list[Record]) -> list[str]:
    return [one for one in PASSES if any(row.number(f"{one}/{kind}") for row in rows for kind in KINDS[1:])]


def _figure(data: ReportData, family: Family, rows: list[Record]) -> Figure:
    """At both ends of an axis: where a shape is small, its host is what one waits for."""
    values: list[dict[str, Any]] = []
    for row in rows:
        at = row.shape[family.axis] if family.axis else 0
        for one in _passes(rows):
            for kind in KINDS:
                if (ms := row.number(f"{one}/{kind}")) and ms > 0:
                    note = str(row.metrics[f"{one}/{kind}"].get("note") or "")
                    values.append({"backend": row.backend, "pass": one, "at": at, "ms": rounded(ms),
                                   "kind": data.words[f"kind_{kind}"], "note": note})  # fmt: skip
    places = sorted({value["at"] for value in values})
    names = [name for name in data.backends if any(value["backend"] == name for value in values)]
    spec = dots.kinds(data.words["time_ms"], tuple(data.words[f"kind_{kind}"] for kind in KINDS))
    panels = [
        Panel(f"{data.words[one]}{f' · {family.axis} {at}' if family.axis else ''}", spec,
              {"pass": one, "at": at, "names": names, "height": ROW * len(names)})
        for at in dict.fromkeys((places[0], places[-1])) for one in _passes(rows)
    ]  # fmt: skip
    chosen = [value for value in values if value["at"] in (places[0], places[-1])]
    return Figure(f"time_variants-{family.anchor}", family.held, data.words["alt_kinds"], panels, chosen)


def _table(data: ReportData, family: Family, rows: list[Record]) -> Table:
    start = [family.axis] if family.axis else []
    lines = [
        [*(Cell(str(row.shape[name]), float(row.shape[name])) for name in start), Cell(row.backend),
         Cell(data.words[one]), *(number(row, f"{one}/{kind}") for kind in KINDS)]
        for row in rows for one in _passes([row])
    ]  # fmt: skip
    heads = [*(Head(name, True) for name in start), Head(data.words["backend"]), Head(data.words["pass"]),
             *(Head(f"{data.words[f'kind_{kind}']} ms", True) for kind in KINDS)]  # fmt: skip
    return Table(data.words["kinds_caption"], heads, lines, len(start) + 2)


def _notes(data: ReportData, family: Family, rows: list[Record]) -> list[str]:
    """What could not be captured and why; which of them are no more to be trusted."""
    places: dict[str, dict[str, None]] = {}
    for row in rows:
        for one in PASSES:
            for kind in KINDS[1:]:
                note = str(row.metrics.get(f"{one}/{kind}", {}).get("note") or "")
                if row.status == "ok" and (note.startswith("noisy:") or (note and row.number(f"{one}/{kind}") is None)):
                    words = f"{row.backend}: {data.words[one]}, {data.words[f'kind_{kind}']}: {note}"
                    places.setdefault(words, {})[f"{family.axis} {row.shape[family.axis]}" if family.axis else ""] = (
                        None
                    )
    return [f"{words} ({', '.join(where)})" if any(where) else words for words, where in places.items()]
