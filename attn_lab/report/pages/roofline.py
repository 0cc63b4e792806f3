"""The roofline page: what each backend reaches of what this card was measured to give."""

from collections.abc import Iterator
from typing import Any

from attn_lab.records.record import PASSES, Record
from attn_lab.report import compare
from attn_lab.report.charts import Figure, Panel, dots, rounded
from attn_lab.report.data import Experiment, ReportData
from attn_lab.report.render.blocks import Block, Cell, Head, Heading, Picture, Table, Text

title = "page_roofline"


def render(data: ReportData) -> Iterator[Block]:
    for experiment in data.experiments:
        # Roofs belong to a card and a dtype; an experiment that mixes them gets one chart for each.
        groups: dict[tuple[str, str], list[Record]] = {}
        for row in experiment.cases:
            groups.setdefault((row.machine, str(row.shape.get("dtype"))), []).append(row)
        for (machine, dtype), rows in groups.items():
            roofs = [_highest(rows, name) for name in ("peak_rates/gemm", "peak_rates/copy")]
            gemm, copy = roofs
            values, passes = _values(rows)
            if gemm and copy and values:
                yield Heading(f"{experiment.name} · {machine} · {dtype}")
                yield Text(data.say("roofs", gemm=compare.digits(gemm), copy=compare.digits(copy)))
                yield Picture(_figure(data, experiment, values, passes, gemm, copy, machine, dtype))
            if table := _table(data, experiment, rows):
                yield table


def _highest(rows: list[Record], metric: str) -> float | None:
    return max((value for row in rows if (value := row.number(metric)) is not None), default=None)


def _values(rows: list[Record]) -> tuple[list[dict[str, Any]], list[str]]:
    found = []
    for row in rows:
        for one in PASSES:
            intensity, rate, share = (row.number(f"{one}/{what}") for what in ("intensity", "tflops", "gemm_fraction"))
            if intensity and rate and intensity > 0 and rate > 0:
                found.append({
                    "backend": row.backend, "pass": one, "intensity": rounded(intensity), "tflops": rounded(rate),
                    "share": share and rounded(100 * share), "where": row.shape_text,
                })  # fmt: skip
    return found, [one for one in PASSES if any(value["pass"] == one for value in found)]


def _figure(
    data: ReportData, experiment: Experiment, values: list[dict[str, Any]], passes: list[str],
    gemm: float, copy: float, machine: str, dtype: str,
) -> Figure:  # fmt: skip
    knee = 1000 * gemm / copy  # FLOP/byte where both roofs meet
    least = min(knee / 2, *(value["intensity"] for value in values))
    most = max(knee * 2, *(value["intensity"] for value in values))
    lines = [{"roof": "copy", "intensity": least, "tflops": least * copy / 1000},
             {"roof": "copy", "intensity": knee, "tflops": gemm}, {"roof": "gemm", "intensity": knee, "tflops": gemm},
             {"roof": "gemm", "intensity": most, "tflops": gemm}]  # fmt: skip
    names = [name for name in data.backends if any(value["backend"] == name for value in values)]
    spec = dots.roofs(data.words["intensity"], "TFLOP/s", tuple(data.backends))
    panels = [Panel(data.words[one], spec, {"pass": one}) for one in passes]
    anchor = f"roofline-{data.experiments.index(experiment) + 1}-{dtype}"
    return Figure(anchor, f"{machine}, {dtype}", data.words["alt_roofline"], panels, [*lines, *values], names)


def _table(data: ReportData, experiment: Experiment, rows: list[Record]) -> Table | None:
    """The share of the GEMM rate each case reaches; it needs no copy rate."""
    passes = [one for one in PASSES if any(row.number(f"{one}/gemm_fraction") is not None for row in rows)]
    if not passes:
        return None
    cells = []
    for place, row in enumerate(sorted(rows, key=lambda row: (compare.order(row), compare.speed(row)))):
        shares = [row.number(f"{one}/gemm_fraction") for one in passes]
        if any(share is not None for share in shares):
            text = [Cell("–") if each is None else Cell(f"{compare.digits(100 * each)} %", each) for each in shares]
            cells.append([Cell(row.shape_text, place), Cell(row.backend), *text])
    heads = [
        Head(data.words["shape"]),
        Head(data.words["backend"]),
        *(Head(data.words[one], True) for one in passes),
    ]
    return Table(data.say("ceiling_caption", name=experiment.name), heads, cells, 2)
