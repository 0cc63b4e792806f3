"""The figures page: for each swept axis and pass what it costs, with the numbers under each family."""

from collections.abc import Iterator

from attn_lab.records.axes import Family
from attn_lab.records.flags import chosen, mixtures, noise
from attn_lab.records.record import PASSES, Record
from attn_lab.report import compare
from attn_lab.report.charts import Figure, bars, curves
from attn_lab.report.data import Experiment, ReportData
from attn_lab.report.render.blocks import Block, Bullets, Cell, Details, Head, Heading, Picture, Table, Text
from attn_lab.report.render.formatting import number, share, speedup

title = "page_figures"
LONGEST = 96  # characters of a list of kernels: more cannot be compared by eye


def render(data: ReportData) -> Iterator[Block]:
    if not data.passes:
        return
    yield Text(data.words["figures_how"], "note")
    for experiment in data.experiments:
        yield Heading(experiment.name)
        for axis, count in experiment.undrawn.items():
            yield Text(data.say("more_families", axis=axis or data.words["point"], count=count), "note")
        for family in experiment.families:
            if not any(row.status == "ok" for row in family.rows):
                continue
            moving = data.say("moving", names=", ".join(family.moving)) if family.axis and family.moving else ""
            yield Heading(f"{f'{family.axis}: ' * bool(family.axis)}{family.held}{moving}", level=4)
            yield from (Picture(figure) for figure in _figures(data, experiment, family) if figure)
            notes = _notes(data, experiment, family)
            table = _table(data, experiment, family)
            yield Details(data.words["numbers"], [table]) if family.axis else table
            if notes:
                yield Bullets([(note, "") for note in notes])


def _figures(data: ReportData, experiment: Experiment, family: Family) -> Iterator[Figure | None]:
    if family.axis is None:
        metrics = [*(f"{one}/time" for one in PASSES), "memory/peak"]
        yield bars.of_point(data, family, metrics, f"figures-{family.anchor}", data.words["alt_point"])
        return
    for one in PASSES:
        yield curves.of_pass(data, experiment, family, one)
    yield curves.of_memory(data, experiment, family)


def _table(data: ReportData, experiment: Experiment, family: Family) -> Table:
    """A family's rows: along an axis in its order, at a point the fastest first."""
    rows = sorted(family.rows, key=lambda row: (row.status != "ok", compare.speed(row)))
    start: list[str] = []
    if family.axis:
        rows = sorted(family.rows, key=lambda row: (compare.order(row), row.backend != data.baseline, row.backend))
        start = [family.axis, *family.moving]
    heads = [*(Head(name, True) for name in start), Head(data.words["backend"])]
    columns = [[_plain(row.fields.get(name)) for row in rows] for name in start] + [[Cell(row.backend) for row in rows]]
    if any(row.status != "ok" for row in rows):
        heads.append(Head(data.words["status"]))
        columns.append([Cell(data.words[row.status], kind=row.status, hover="; ".join(row.reasons)) for row in rows])
    wanted = [(f"{one}/{what}", f"{data.words[one]} {unit}") for one in PASSES
              for what, unit in (("time", "ms"), ("tflops", "TFLOP/s"))]  # fmt: skip
    for metric, label in [*wanted, ("memory/peak", f"{data.words['memory/peak']} MB")]:
        if any(row.number(metric) is not None for row in rows):
            heads.append(Head(label, True))
            columns.append([number(row, metric) for row in rows])
    if len({row.backend for row in rows}) > 1:
        for one in PASSES:
            cells = [speedup(data, experiment, row, one) for row in rows]
            if any(cell.number is not None for cell in cells):
                heads.append(Head(f"{data.words[one]} ×", True))
                columns.append(cells)
        shares = [share(row, experiment.baseline_of(row)) for row in rows]
        if any(cell.number is not None for cell in shares):
            heads.append(Head(data.say("share_of", baseline=data.baseline), True))
            columns.append(shares)
    if family.axis is None:
        for label, cells in ((data.words["accuracy_head"], _errors(rows)), (data.words["kernels"], _kernels(rows))):
            if any(cell.words for cell in cells):
                heads.append(Head(label))
                columns.append(cells)
    return Table(data.say("numbers_caption", what=family.axis or data.words["point"]), heads,
                 list(zip(*columns, strict=True)), len(start) + 1)  # fmt: skip


def _plain(value: object) -> Cell:
    return Cell("" if value is None else str(value), float(value) if isinstance(value, int | float) else None)


def _errors(rows: list[Record]) -> list[Cell]:
    text = []
    for row in rows:
        numbers = {name.split("/")[-1]: row.number(name) for name in row.metrics if name.startswith("accuracy/")}
        worst = max((value for value in numbers.values() if value is not None), default=None)
        words = ", ".join(f"{name} {compare.digits(value)}" for name, value in numbers.items() if value is not None)
        text.append(Cell(words, worst))
    return text


def _kernels(rows: list[Record]) -> list[Cell]:
    text = []
    for row in rows:
        notes = str(row.metrics.get("kernel_check/kernels", {}).get("note") or "") if row.status == "ok" else ""
        shown = [
            note if len(note) <= LONGEST else note[: LONGEST - 1] + "…" for note in notes.split("; ")
        ]  # one a pass
        text.append(Cell("; ".join(shown), hover=notes))
    return text


def _notes(data: ReportData, experiment: Experiment, family: Family) -> list[str]:
    """Why rows have no number, which numbers are noisy, what was mixed, and where there was nothing to compare with."""
    places: dict[str, dict[str, None]] = {}
    for row in family.rows:
        at = f"{family.axis} {row.shape[family.axis]}" if family.axis else ""
        text = []
        if row.status != "ok":
            reasons = row.reasons or [data.words["no_reason"]]
            text += [f"{row.backend}: {data.words[row.status]}: {reason}" for reason in reasons]
        else:
            text += [
                f"≈ {row.backend}: {data.metric(name)}: {noise(row, name)}" for name in row.metrics if noise(row, name)
            ]
            if choice := chosen(row):
                text.append(f"→ {row.backend}: {choice}")
            text += filter(None, [data.missing(experiment, row)])
            other = experiment.baseline_of(row)
            text += [
                f"‡ {row.backend}: {data.words['mixed']} {each}" for each in (mixtures([row, other]) if other else [])
            ]
        for words in text:
            places.setdefault(words, {})[at] = None
    return [f"{words} ({', '.join(where)})" if any(where) else words for words, where in places.items()]
