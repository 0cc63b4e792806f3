"""attn-lab show CASE_ID [RUNS…]: all that is recorded of one case, and the command that repeats it."""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from attn_lab.cli.ls import list_cases
from attn_lab.cli.parser import takes_json
from attn_lab.core.errors import BadRequest
from attn_lab.records.artifacts import inside
from attn_lab.records.printable import printable
from attn_lab.records.reading import records
from attn_lab.records.record import PASSES, STATUS_COLOURS, Record
from attn_lab.records.stats.noise_floor import noise_floor
from attn_lab.records.stats.verdict import compare_times
from attn_lab.records.store import find_case
from attn_lab.report import compare
from attn_lab.report.file_tables import columns, file_tables
from attn_lab.report.terminal import Terminal
from attn_lab.run.repro_command import command

LATEST = 20  # cases listed when none is named
MB = 2**20


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("case", nargs="?", help="a case's id or its beginning; without it the latest are listed")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders; else those under runs/")
    takes_json(parser)


def run(given: argparse.Namespace) -> int:
    """Prints it.  Raises BadRequest for an id that no record has."""
    if given.case is None:
        return list_cases(sorted(Path("runs").glob("**/records.jsonl")), LATEST, given.json)
    record = find_case(given.case, given.runs)
    if given.json:
        plain = {"folder": str(record.folder), "record": printable(record.as_json())}
        print(json.dumps(plain, indent=1, ensure_ascii=False))
        return 0
    console = Terminal()
    for title, piece in _pieces(record):
        if title:
            console.print(Text(f"\n{title}", "bold"))
        console.print(piece, soft_wrap=isinstance(piece, Text))
    return 0


def _pieces(record: Record) -> Iterator[tuple[str, Table | Text]]:
    yield "", _head(record)
    yield "asked", _pairs(_flat("", record.provenance["config"]))
    yield "measured", _metrics(record)
    if record.status == "ok" and (rivals := list(_rivals(record))):
        yield "against rivals", Text("\n".join(rivals))
    yield from file_tables(record)
    if record.artifacts:
        yield "files", _files(record)
    try:
        yield "the same again", Text(command(record))
    except BadRequest as error:
        yield "the same again", Text(str(error), "yellow")


def _head(record: Record) -> Text:
    origin, shape, status = record.provenance, record.shape, record.status
    sizes = "×".join(str(shape[axis]) for axis in ("batch_size", "seq_len", "num_heads", "emb_dim"))
    name = f"{record.backend} {sizes} {shape.get('dtype', '')} {record.mask} {record.subject} round {record.round} "
    head = Text.assemble((f"{record.id} ", "dim"), (name, "bold"), (status, STATUS_COLOURS[record.status]))
    versions = " · ".join(f"{name} {value}" for name, value in origin["versions"].items() if name != "source")
    lines = [*record.reasons, f"{record.machine} · {versions}",
             f"commit {origin['commit']}{' (dirty)' * origin['dirty']} · {origin['started']} · sweep {origin['sweep']}",
             printable(f"{record.folder}/records.jsonl")]  # fmt: skip
    return head.append("\n" + "\n".join(lines), "not bold")


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else name, each)
    else:
        yield prefix, "null" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _pairs(pairs: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in pairs:
        if not name.endswith("_target_"):
            table.add_row(Text(name, "dim"), Text(value))
    return table


def _metrics(record: Record) -> Table:
    table = columns("metric", "value", "unit", "p05–p95", "samples", "note", right=(1, 4))
    for name, each in record.metrics.items():
        low, high = each["low"], each["high"]
        between = "" if low is None or high is None else f"{compare.digits(low)}–{compare.digits(high)}"
        table.add_row(name, compare.digits(each["value"]), each["unit"], between, str(each["samples"]), each["note"])
    return table


def _rivals(mine: Record) -> Iterator[str]:
    """Verdicts on the longest pass it was timed in, fastest rival first."""
    assert mine.folder is not None
    metric = next((f"{name}/time" for name in reversed(PASSES) if mine.number(f"{name}/time")), None)
    if metric is None:
        return
    found, broken = records(mine.folder)
    floor = noise_floor(found, metric)
    others: dict[str, list[Record]] = {}
    for each in found:
        if each.setting == mine.setting and each.backend != mine.backend and each.number(metric):
            others.setdefault(each.backend, []).append(each)
    for name, rival in sorted(others.items(), key=lambda each: each[1][0].number(metric) or 0):
        same = [each for each in found if each.setting == mine.setting and each.backend == mine.backend]
        if verdict := compare_times(same, rival, metric, floor):
            yield f"{metric}: {verdict} the speed of {name}: {verdict.word}"
    yield str(floor)
    yield from (f"not read: {line}" for line in broken)


def _files(record: Record) -> Table:
    table = columns("kind", "MB", "file", right=(1,))
    for each in record.artifacts:
        path = inside(record.folder or Path(), each["path"])
        there = printable(str(path)) if path else f"{record.folder}/{each['path']} (removed)"
        table.add_row(each["kind"], f"{each['size'] / MB:.3f}", there if each["path"] else each.get("note", ""))
    return table
