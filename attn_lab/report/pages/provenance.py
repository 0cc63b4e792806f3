"""The provenance page: where the numbers come from, what was mixed, and what could not be read."""

import json
from collections import Counter
from collections.abc import Iterator

from attn_lab.records.flags import mixtures
from attn_lab.records.record import STATUSES
from attn_lab.report.card import condition
from attn_lab.report.compare import digits
from attn_lab.report.experiments import question_of
from attn_lab.report.fragment import Bullets, Cell, Head, Heading, Piece, Table, Text
from attn_lab.report.machines import machines
from attn_lab.report.study import Experiment, Study

title = "page_provenance"


def render(study: Study) -> Iterator[Piece]:
    yield from (Text(line, "warning") for line in warnings(study))
    rows = [[Cell(name), Cell(value)] for name, value in origin(study)]
    yield Table(study.words["origin_caption"], [Head(study.words["what"]), Head(study.words["value"])], rows)
    yield _sweeps(study)
    yield from condition(study)
    yield Heading(study.words["how_made"])
    yield Text(study.words["legend"])
    if study.broken:
        yield Heading(study.words["broken_head"])
        yield Bullets([(line, "") for line in study.broken])


def warnings(study: Study) -> list[str]:
    """What a reader must know before the first number."""
    told = zip(study.rows, machines(study.rows), strict=True)
    names = {json.dumps(machine, sort_keys=True): row.machine for row, machine in told}
    said = []
    if len(names) > 1:
        said.append(study.say("machines_mixed", count=len(names), names=", ".join(dict.fromkeys(names.values()))))
    said += [study.say("versions_mixed", what=each) for each in mixtures(study.rows) if not each.startswith("machine.")]
    if any(row.provenance.get("dirty") for row in study.rows):
        said.append(study.words["dirty_runs"])
    if study.broken:
        said.append(study.say("broken_lines", count=study.broken.total, first=study.broken[0]))
    return said


def origin(study: Study) -> list[tuple[str, str]]:
    """Label and value of what the rows were measured on and with: several values where there were several."""
    found: dict[str, dict[str, None]] = {"name": {}, "device": {}, "capability": {}, "memory": {}, "driver": {}}
    for row in study.rows:
        for name, value in {**row.provenance["machine"], **row.packages}.items():
            told = ".".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
            if name == "memory" and isinstance(value, int):
                told = f"{digits(value / 2**30)} GiB"
            found.setdefault(name, {})[told] = None
        dirty = f" ({study.words['dirty']})" if row.provenance.get("dirty") else ""
        found.setdefault("commit", {})[f"{str(row.provenance.get('commit'))[:12]}{dirty}"] = None
    dates = sorted(str(row.provenance.get("started", ""))[:19].replace("T", " ") for row in study.rows)
    found["date"] = {" – ".join(dict.fromkeys((dates[0], dates[-1]))): None}
    labels = {"name": "machine", "capability": "capability", "commit": "commit", "date": "date"}
    told_of = {
        study.words.get(labels.get(name, ""), name): ", ".join(filter(None, values)) for name, values in found.items()
    }
    return [(label, told) for label, told in told_of.items() if told]


def _sweeps(study: Study) -> Table:
    lines = []
    for experiment in study.experiments:
        counts = Counter(row.status for row in experiment.cases)
        sweeps = sorted({str(row.provenance.get("sweep", "")) for row in experiment.rows})
        lines.append([Cell(experiment.name), Cell(_command(study, experiment)), Cell(", ".join(sweeps)),
                      Cell(str(len(experiment.cases)), len(experiment.cases)),
                      *(Cell(str(counts[status] or "–"), counts[status]) for status in _seen(study))])  # fmt: skip
    heads = [Head(study.words[name]) for name in ("experiment", "command", "sweep")]
    heads += [Head(study.words["cases"], True), *(Head(study.words[status], True) for status in _seen(study))]
    return Table(study.words["sweeps_caption"], heads, lines)


def _seen(study: Study) -> list[str]:
    return [status for status in STATUSES if any(row.status == status for row in study.cases)]


def _command(study: Study, experiment: Experiment) -> str:
    """As recorded; of our own experiments the one that makes them; else that it is not known."""
    recorded = dict.fromkeys(str(row.provenance["command"]) for row in experiment.rows if row.provenance.get("command"))
    name = experiment.name.partition(" #")[0]
    return "; ".join(recorded) or (
        f"attn-lab -m experiment={name}" if question_of(name) else study.words["not_recorded"]
    )
