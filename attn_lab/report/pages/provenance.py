"""The provenance page: where the numbers come from, what was mixed, and what could not be read."""

import json
from collections import Counter
from collections.abc import Iterator

from attn_lab.records.flags import mixtures
from attn_lab.records.record import STATUSES
from attn_lab.report.compare import digits
from attn_lab.report.data import Experiment, ReportData
from attn_lab.report.experiments import question_of
from attn_lab.report.findings.comparability import machines
from attn_lab.report.pages.gpu_state import condition
from attn_lab.report.render.blocks import Block, Bullets, Cell, Head, Heading, Table, Text

title = "page_provenance"


def render(data: ReportData) -> Iterator[Block]:
    yield from (Text(line, "warning") for line in warnings(data))
    rows = [[Cell(name), Cell(value)] for name, value in origin(data)]
    yield Table(data.words["origin_caption"], [Head(data.words["what"]), Head(data.words["value"])], rows)
    yield _sweeps(data)
    yield from condition(data)
    yield Heading(data.words["how_made"])
    yield Text(data.words["legend"])
    if data.broken:
        yield Heading(data.words["broken_head"])
        yield Bullets([(line, "") for line in data.broken])


def warnings(data: ReportData) -> list[str]:
    """What a reader must know before the first number."""
    text = zip(data.rows, machines(data.rows), strict=True)
    names = {json.dumps(machine, sort_keys=True): row.machine for row, machine in text}
    notes = []
    if len(names) > 1:
        notes.append(data.say("machines_mixed", count=len(names), names=", ".join(dict.fromkeys(names.values()))))
    notes += [data.say("versions_mixed", what=each) for each in mixtures(data.rows) if not each.startswith("machine.")]
    if any(row.provenance.get("dirty") for row in data.rows):
        notes.append(data.words["dirty_runs"])
    if data.broken:
        notes.append(data.say("broken_lines", count=data.broken.total, first=data.broken[0]))
    return notes


def origin(data: ReportData) -> list[tuple[str, str]]:
    """Label and value of what the rows were measured on and with: several values where there were several."""
    found: dict[str, dict[str, None]] = {"name": {}, "device": {}, "capability": {}, "memory": {}, "driver": {}}
    for row in data.rows:
        for name, value in {**row.provenance["machine"], **row.packages}.items():
            text = ".".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
            if name == "memory" and isinstance(value, int):
                text = f"{digits(value / 2**30)} GiB"
            found.setdefault(name, {})[text] = None
        dirty = f" ({data.words['dirty']})" if row.provenance.get("dirty") else ""
        found.setdefault("commit", {})[f"{str(row.provenance.get('commit'))[:12]}{dirty}"] = None
    dates = sorted(str(row.provenance.get("started", ""))[:19].replace("T", " ") for row in data.rows)
    found["date"] = {" – ".join(dict.fromkeys((dates[0], dates[-1]))): None}
    labels = {"name": "machine", "capability": "capability", "commit": "commit", "date": "date"}
    text_of = {
        data.words.get(labels.get(name, ""), name): ", ".join(filter(None, values)) for name, values in found.items()
    }
    return [(label, text) for label, text in text_of.items() if text]


def _sweeps(data: ReportData) -> Table:
    lines = []
    for experiment in data.experiments:
        counts = Counter(row.status for row in experiment.cases)
        sweeps = sorted({str(row.provenance.get("sweep", "")) for row in experiment.rows})
        lines.append([Cell(experiment.name), Cell(_command(data, experiment)), Cell(", ".join(sweeps)),
                      Cell(str(len(experiment.cases)), len(experiment.cases)),
                      *(Cell(str(counts[status] or "–"), counts[status]) for status in _seen(data))])  # fmt: skip
    heads = [Head(data.words[name]) for name in ("experiment", "command", "sweep")]
    heads += [Head(data.words["cases"], True), *(Head(data.words[status], True) for status in _seen(data))]
    return Table(data.words["sweeps_caption"], heads, lines)


def _seen(data: ReportData) -> list[str]:
    return [status for status in STATUSES if any(row.status == status for row in data.cases)]


def _command(data: ReportData, experiment: Experiment) -> str:
    """As recorded; of our own experiments the one that makes them; else that it is not known."""
    recorded = dict.fromkeys(str(row.provenance["command"]) for row in experiment.rows if row.provenance.get("command"))
    name = experiment.name.partition(" #")[0]
    return "; ".join(recorded) or (
        f"attn-lab -m experiment={name}" if question_of(name) else data.words["not_recorded"]
    )
