"""The page of whole models: what a training step of each is worth, and how much of it attention is."""

from collections.abc import Iterator

from attn_lab.records.axes import Family
from attn_lab.records.record import Record
from attn_lab.report import compare
from attn_lab.report.charts import Figure, bars, curves
from attn_lab.report.data import Experiment, ReportData
from attn_lab.report.render.blocks import Block, Cell, Head, Heading, KeyValues, Picture, Table, Text
from attn_lab.report.render.formatting import number, share, speedup

title = "page_models"
TRAINING = ("train_step/tokens_per_second", "train_step/mfu", "train_step/attention_share")
COLUMNS = ("train_step/time", *TRAINING, "memory/peak")


def render(data: ReportData) -> Iterator[Block]:
    text = False
    for experiment in data.experiments:
        for family in experiment.families:
            rows = [row for row in family.rows if any(row.number(metric) is not None for metric in TRAINING)]
            if not rows:
                continue
            if not text:
                yield Text(data.words["models_how"], "note")
            text = True
            yield Heading(f"{experiment.name} · {family.axis or data.words['point']}")
            yield KeyValues(_facts(rows[0]))
            if figure := _drawn(data, family):
                yield Picture(figure)
            yield _table(data, experiment, family)


def _facts(row: Record) -> list[tuple[str, str]]:
    """What the model is made of, as it was configured."""
    subject = row.provenance["config"].get("subject")
    options = subject if isinstance(subject, dict) else {}
    return [("subject", row.subject), *((name, str(value)) for name, value in options.items()
                                        if name[:1] != "_" and value is not None)]  # fmt: skip


def _drawn(data: ReportData, family: Family) -> Figure | None:
    if family.axis:
        return curves.of_training(data, family)
    return bars.of_point(data, family, [*TRAINING, "memory/peak"], f"models-{family.anchor}",
                         data.words["alt_training_point"])  # fmt: skip


def _table(data: ReportData, experiment: Experiment, family: Family) -> Table:
    """All rows of the family, those out of memory included."""
    start = [family.axis] if family.axis else []
    rows = sorted(family.rows, key=lambda row: (compare.order(row) if start else (), row.status != "ok",
                                                compare.speed(row)))  # fmt: skip
    shown = [metric for metric in COLUMNS if any(row.number(metric) is not None for row in rows)]
    heads = [*(Head(name, True) for name in start), Head(data.words["backend"]), Head(data.words["status"]),
             *(Head(_head(data, metric), True) for metric in shown), Head(f"{data.words['train_step']} ×", True),
             Head(data.say("share_of", baseline=data.baseline), True)]  # fmt: skip
    lines = [
        [*(Cell(str(row.shape[name]), float(row.shape[name])) for name in start), Cell(row.backend),
         Cell(data.words[row.status], kind=row.status, hover="; ".join(row.reasons)),
         *(number(row, metric) for metric in shown), speedup(data, experiment, row, "train_step"),
         share(row, experiment.baseline_of(row))]
        for row in rows
    ]  # fmt: skip
    return Table(data.words["models_caption"], heads, lines, len(start) + 1)


def _head(data: ReportData, metric: str) -> str:
    what = metric.partition("/")[2]
    if metric == "memory/peak":
        return f"{data.words[metric]} MB"
    return data.words["time_ms"] if what == "time" else data.words[what]
