"""The page of whole models: what a training step of each is worth, and how much of it attention is."""

from collections.abc import Iterator

from attn_lab.records.axes import Family
from attn_lab.records.record import Record as Row
from attn_lab.report import compare
from attn_lab.report.cells import number, share, speedup
from attn_lab.report.charts import Figure, bars, curves
from attn_lab.report.fragment import Cell, Facts, Head, Heading, Picture, Piece, Table, Text
from attn_lab.report.study import Experiment, Study

title = "page_models"
TRAINING = ("train_step/tokens_per_second", "train_step/mfu", "train_step/attention_share")
COLUMNS = ("train_step/time", *TRAINING, "memory/peak")


def render(study: Study) -> Iterator[Piece]:
    told = False
    for experiment in study.experiments:
        for family in experiment.families:
            rows = [row for row in family.rows if any(row.number(metric) is not None for metric in TRAINING)]
            if not rows:
                continue
            if not told:
                yield Text(study.words["models_how"], "note")
            told = True
            yield Heading(f"{experiment.name} · {family.axis or study.words['point']}")
            yield Facts(_facts(rows[0]))
            if figure := _drawn(study, family):
                yield Picture(figure)
            yield _table(study, experiment, family)


def _facts(row: Row) -> list[tuple[str, str]]:
    """What the model is made of, as it was configured."""
    subject = row.provenance["config"].get("subject")
    options = subject if isinstance(subject, dict) else {}
    return [("subject", row.subject), *((name, str(value)) for name, value in options.items()
                                        if name[:1] != "_" and value is not None)]  # fmt: skip


def _drawn(study: Study, family: Family) -> Figure | None:
    if family.axis:
        return curves.of_training(study, family)
    return bars.of_point(study, family, [*TRAINING, "memory/peak"], f"models-{family.anchor}",
                         study.words["alt_training_point"])  # fmt: skip


def _table(study: Study, experiment: Experiment, family: Family) -> Table:
    """All rows of the family, for who ran out of memory is told as well."""
    start = [family.axis] if family.axis else []
    rows = sorted(family.rows, key=lambda row: (compare.order(row) if start else (), row.status != "ok",
                                                compare.speed(row)))  # fmt: skip
    shown = [metric for metric in COLUMNS if any(row.number(metric) is not None for row in rows)]
    heads = [*(Head(name, True) for name in start), Head(study.words["backend"]), Head(study.words["status"]),
             *(Head(_head(study, metric), True) for metric in shown), Head(f"{study.words['train_step']} ×", True),
             Head(study.say("share_of", baseline=study.baseline), True)]  # fmt: skip
    lines = [
        [*(Cell(str(row.shape[name]), float(row.shape[name])) for name in start), Cell(row.backend),
         Cell(study.words[row.status], kind=row.status, hover="; ".join(row.reasons)),
         *(number(row, metric) for metric in shown), speedup(study, experiment, row, "train_step"),
         share(row, experiment.beside(row))]
        for row in rows
    ]  # fmt: skip
    return Table(study.words["models_caption"], heads, lines, len(start) + 1)


def _head(study: Study, metric: str) -> str:
    what = metric.partition("/")[2]
    if metric == "memory/peak":
        return f"{study.words[metric]} MB"
    return study.words["time_ms"] if what == "time" else study.words[what]
