"""The accuracy page: how much of the allowed error each backend uses at its worst, and which answers were wrong."""

from collections.abc import Iterator
from typing import Any

from attn_lab.records.record import Record
from attn_lab.report import compare
from attn_lab.report.charts import Figure, Panel, dots, rounded
from attn_lab.report.data import ReportData
from attn_lab.report.render.blocks import Block, Bullets, Cell, Head, Heading, Picture, Table, Text

title = "page_accuracy"
Worst = dict[tuple[str, str], tuple[float, Record, int]]  # by backend and tensor: share, where, of how many cases


def render(data: ReportData) -> Iterator[Block]:
    worst = _worst(data)
    if worst:
        yield Text(data.words["accuracy_how"], "note")
        yield Picture(_figure(data, worst))
        yield _table(data, worst)
    wrong = [row for row in data.cases if row.status == "incorrect"]
    if wrong:
        yield Heading(data.words["wrong_answers"])
        yield Bullets([(f"{row.backend}, {row.shape_text}: {'; '.join(row.reasons)}", "") for row in wrong])
    elif worst:
        yield Text(data.words["none_wrong"])


def _worst(data: ReportData) -> Worst:
    found: Worst = {}
    for row in data.cases:
        for name in row.metrics:
            value = row.number(name)
            if name.startswith("accuracy/") and value is not None:
                key = (row.backend, name.removeprefix("accuracy/"))
                before = found.get(key, (-1.0, row, 0))
                found[key] = (max(value, before[0]), row if value > before[0] else before[1], before[2] + 1)
    return found


def _figure(data: ReportData, worst: Worst) -> Figure:
    values: list[dict[str, Any]] = [
        {"backend": backend, "tensor": tensor, "share": rounded(value), "where": row.shape_text,
         "note": str(row.metrics[f"accuracy/{tensor}"].get("note") or "")}
        for (backend, tensor), (value, row, _) in worst.items()
    ]  # fmt: skip
    names = tuple(name for name in data.backends if any(name == backend for backend, _ in worst))
    panel = Panel(
        data.words["accuracy_axis"], dots.errors(data.words["accuracy_axis"], names), {"height": 26 * len(names)}
    )
    return Figure("accuracy-worst", data.words["accuracy_title"], data.words["alt_accuracy"], [panel], values)


def _table(data: ReportData, worst: Worst) -> Table:
    tensors = list(dict.fromkeys(tensor for _, tensor in worst))
    rows = []
    for name in data.backends:
        mine = {tensor: worst[name, tensor] for tensor in tensors if (name, tensor) in worst}
        if mine:
            cells = [Cell(compare.digits(mine[each][0]), mine[each][0], mine[each][1].shape_text) if each in mine
                     else Cell("–") for each in tensors]  # fmt: skip
            _, row, _ = max(mine.values(), key=lambda one: one[0])
            count = max(count for _, _, count in mine.values())
            rows.append([Cell(name), *cells, Cell(str(count), count), Cell(row.shape_text)])
    heads = [Head(data.words["backend"]), *(Head(each, True) for each in tensors),
             Head(data.words["cases"], True), Head(data.words["worst_at"])]  # fmt: skip
    return Table(data.words["accuracy_caption"], heads, rows)
