"""The overview page: what was asked, of which machine, who is fastest at each shape, and how sure that is."""

from collections import Counter
from collections.abc import Iterator

from attn_lab.records.flags import chosen, mixtures
from attn_lab.records.record import Record as Row
from attn_lab.report import compare
from attn_lab.report.cells import compared, number
from attn_lab.report.experiments import question_of
from attn_lab.report.fragment import Bullets, Cell, Facts, Fold, Head, Piece, Table, Text
from attn_lab.report.pages.provenance import warnings
from attn_lab.report.study import Study
from attn_lab.report.winners import Winner, winners

title = "page_overview"


def render(study: Study) -> Iterator[Piece]:
    yield Text(study.words["question"], "lead")
    asked = [(f"{each.name}: {question_of(each.name)}", "") for each in study.experiments if question_of(each.name)]
    if asked:
        yield Fold(study.words["asked_by"], [Bullets(asked)])
    yield Facts(_facts(study))
    yield from (Text(line, "warning") for line in warnings(study))
    if not study.passes:
        yield Text(study.words["nothing_measured"], "warning")
        return
    yield Bullets([(each.text, each.figure) for each in study.findings if each.key.startswith("fastest")])
    yield Text(study.words["winners_how"], "note")
    tables = {one: _table(study, one, list(winners(study, one))) for one in reversed(study.passes)}
    longest = _longest(study)
    yield from (table for one, table in tables.items() if one in longest)
    if others := [table for one, table in tables.items() if one not in longest]:
        yield Fold(study.words["other_passes"], others)


def _longest(study: Study) -> set[str]:
    """Passes that are the whole of what was asked at some setting: the step of a kernel, the training of a model."""
    timed: dict[object, set[str]] = {}
    for row in study.cases:
        timed.setdefault(row.setting, set()).update(one for one in study.passes if row.number(f"{one}/time"))
    return {max(passes, key=study.passes.index) for passes in timed.values() if passes}


def _facts(study: Study) -> list[tuple[str, str]]:
    statuses = Counter(row.status for row in study.cases)
    told = " · ".join(f"{count} {study.words[status]}" for status, count in statuses.most_common())
    machines = dict.fromkeys(_machine(row) for row in study.rows)
    torch = dict.fromkeys(str(row.provenance["versions"].get("torch", "?")) for row in study.rows)
    rounds = max(len({row.round for row in each.rows}) for each in study.experiments)
    floors = dict.fromkeys(_floor(study, one) for one in study.passes[-1:])
    facts = [
        ("machine", ", ".join(machines)),
        ("torch", ", ".join(torch)),
        ("cases", f"{len(study.cases)} ({told})"),
        ("backends", str(len(study.backends))),
        ("rounds", str(rounds)),
        ("baseline", study.baseline),
        ("floor", ", ".join(floors)),
    ]
    return [(study.words[label], value) for label, value in facts if value]


def _machine(row: Row) -> str:
    memory = row.provenance["machine"].get("memory")
    return row.machine + (f" ({compare.digits(memory / 2**30)} GiB)" if isinstance(memory, int) else "")


def _floor(study: Study, one: str) -> str:
    floors = dict.fromkeys(each.floor(one) for each in study.experiments)
    keys = (
        (("floor_measured" if floor.measured else "floor_assumed"), floor.percent.removesuffix(" %"))
        for floor in floors
    )
    return ", ".join(study.say(key, share=share) for key, share in keys)


def _table(study: Study, one: str, found: list[Winner]) -> Table:
    several = len(study.experiments) > 1
    heads = [Head(study.words["experiment"])] * several + [
        Head(study.words["shape"]), Head(study.words["fastest_head"]), Head(study.words["time_ms"], True),
        Head("TFLOP/s", True), Head(study.say("speedup_against", baseline=study.baseline), True),
        Head(study.words["level_head"]), Head(study.words["following_head"]),
    ]  # fmt: skip
    rows = []
    for place, each in enumerate(found):
        where = " ".join(filter(None, (each.first.shape_text, compare.text(each.first, study.more))))
        level = study.words["list_comma"].join(
            f"{row.backend} ({verdict} {study.words[verdict.word]})" for row, verdict in each.level
        )
        following = each.following and f"{each.following[0].backend} ({each.following[1]})"
        cells = [Cell(where, place), Cell(each.first.backend, hover=chosen(each.first)),
                 number(each.first, f"{one}/time"), number(each.first, f"{one}/tflops"), _beside(study, each),
                 Cell(level or "–"), Cell(following or "–")]  # fmt: skip
        rows.append([Cell(each.experiment.name)] * several + cells)
    return Table(study.say("winners_caption", what=study.words[one]), heads, rows, 1 + several)


def _beside(study: Study, each: Winner) -> Cell:
    if each.first.backend == study.baseline:
        return Cell(study.words["is_baseline"], 1.0)
    if each.beside is None:
        return Cell("–", hover=study.missing(each.experiment, each.first))
    other = each.experiment.beside(each.first)
    mixed = mixtures([each.first, other]) if other else []
    return compared(study, each.beside, mixed)
