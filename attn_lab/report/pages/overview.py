"""The overview page: the question, the machine, the fastest backend at each shape, and how sure that is."""

from collections import Counter
from collections.abc import Iterator

from attn_lab.records.flags import chosen, mixtures
from attn_lab.records.record import Record
from attn_lab.report import compare
from attn_lab.report.data import ReportData
from attn_lab.report.experiments import question_of
from attn_lab.report.pages.fastest import Winner, winners
from attn_lab.report.pages.provenance import warnings
from attn_lab.report.render.blocks import Block, Bullets, Cell, Details, Head, KeyValues, Table, Text
from attn_lab.report.render.formatting import compared, number

title = "page_overview"


def render(data: ReportData) -> Iterator[Block]:
    yield Text(data.words["question"], "lead")
    fields = [(f"{each.name}: {question_of(each.name)}", "") for each in data.experiments if question_of(each.name)]
    if fields:
        yield Details(data.words["asked_by"], [Bullets(fields)])
    yield KeyValues(_facts(data))
    yield from (Text(line, "warning") for line in warnings(data))
    if not data.passes:
        yield Text(data.words["nothing_measured"], "warning")
        return
    yield Bullets([(each.text, each.figure) for each in data.findings if each.key.startswith("fastest")])
    yield Text(data.words["winners_how"], "note")
    tables = {one: _table(data, one, list(winners(data, one))) for one in reversed(data.passes)}
    longest = _longest(data)
    yield from (table for one, table in tables.items() if one in longest)
    if others := [table for one, table in tables.items() if one not in longest]:
        yield Details(data.words["other_passes"], others)


def _longest(data: ReportData) -> set[str]:
    """Passes that are the whole of what was asked at some setting: the step of a kernel, the training of a model."""
    timed: dict[object, set[str]] = {}
    for row in data.cases:
        timed.setdefault(row.setting, set()).update(one for one in data.passes if row.number(f"{one}/time"))
    return {max(passes, key=data.passes.index) for passes in timed.values() if passes}


def _facts(data: ReportData) -> list[tuple[str, str]]:
    statuses = Counter(row.status for row in data.cases)
    texts = " · ".join(f"{count} {data.words[status]}" for status, count in statuses.most_common())
    machines = dict.fromkeys(_machine(row) for row in data.rows)
    torch = dict.fromkeys(str(row.provenance["versions"].get("torch", "?")) for row in data.rows)
    rounds = max(len({row.round for row in each.rows}) for each in data.experiments)
    floors = dict.fromkeys(_floor(data, one) for one in data.passes[-1:])
    facts = [
        ("machine", ", ".join(machines)),
        ("torch", ", ".join(torch)),
        ("cases", f"{len(data.cases)} ({texts})"),
        ("backends", str(len(data.backends))),
        ("rounds", str(rounds)),
        ("baseline", data.baseline),
        ("floor", ", ".join(floors)),
    ]
    return [(data.words[label], value) for label, value in facts if value]


def _machine(row: Record) -> str:
    memory = row.provenance["machine"].get("memory")
    return row.machine + (f" ({compare.digits(memory / 2**30)} GiB)" if isinstance(memory, int) else "")


def _floor(data: ReportData, one: str) -> str:
    floors = dict.fromkeys(each.floor(one) for each in data.experiments)
    keys = (
        (("floor_measured" if floor.measured else "floor_assumed"), floor.percent.removesuffix(" %"))
        for floor in floors
    )
    return ", ".join(data.say(key, share=share) for key, share in keys)


def _table(data: ReportData, one: str, found: list[Winner]) -> Table:
    several = len(data.experiments) > 1
    heads = [Head(data.words["experiment"])] * several + [
        Head(data.words["shape"]), Head(data.words["fastest_head"]), Head(data.words["time_ms"], True),
        Head("TFLOP/s", True), Head(data.say("speedup_against", baseline=data.baseline), True),
        Head(data.words["level_head"]), Head(data.words["following_head"]),
    ]  # fmt: skip
    rows = []
    for place, each in enumerate(found):
        where = " ".join(filter(None, (each.first.shape_text, compare.text(each.first, data.more))))
        level = data.words["list_comma"].join(
            f"{row.backend} ({verdict} {data.words[verdict.word]})" for row, verdict in each.level
        )
        following = each.following and f"{each.following[0].backend} ({each.following[1]})"
        cells = [Cell(where, place), Cell(each.first.backend, hover=chosen(each.first)),
                 number(each.first, f"{one}/time"), number(each.first, f"{one}/tflops"), _beside(data, each),
                 Cell(level or "–"), Cell(following or "–")]  # fmt: skip
        rows.append([Cell(each.experiment.name)] * several + cells)
    return Table(data.say("winners_caption", what=data.words[one]), heads, rows, 1 + several)


def _beside(data: ReportData, each: Winner) -> Cell:
    if each.first.backend == data.baseline:
        return Cell(data.words["is_baseline"], 1.0)
    if each.beside is None:
        return Cell("–", hover=data.missing(each.experiment, each.first))
    other = each.experiment.baseline_of(each.first)
    mixed = mixtures([each.first, other]) if other else []
    return compared(data, each.beside, mixed)
