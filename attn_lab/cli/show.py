"""attn-lab show CASE_ID [RUNS…]: all that is recorded of one case, and the command that repeats it."""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from attn_lab.cli.ls import list_cases
from attn_lab.cli.parser import takes_json
from attn_lab.core.errors import BadRequest
from attn_lab.report import compare
from attn_lab.report.read import PASSES, Row, printable, records
from attn_lab.report.verdict import floor_of, judge
from attn_lab.sweep.again import command
from attn_lab.sweep.counters_table import counters_table
from attn_lab.sweep.counters_table import table as plain_table
from attn_lab.sweep.kept import Kept, found

LATEST = 20  # cases listed when none is named
MOST = 6  # kernels of a pass
MB = 2**20
COLOURS = {"ok": "green", "refused": "yellow", "oom": "yellow", "timeout": "yellow"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "case", nargs="?", help="a case's id or its beginning; without it the latest are listed"
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="run folders; else those under runs/"
    )
    takes_json(parser)


def run(given: argparse.Namespace) -> int:
    """Prints it.  Raises BadRequest for an id that no record has."""
    if given.case is None:
        return list_cases(sorted(Path("runs").glob("**/records.jsonl")), LATEST, given.json)
    kept = found(given.case, given.runs)
    kept = Kept(kept.folder, printable(kept.record))
    if given.json:
        print(json.dumps({"folder": str(kept.folder), "record": kept.record}, indent=1, ensure_ascii=False))
        return 0
    console = Console()
    for title, piece in _pieces(kept):
        if title:
            console.print(Text(f"\n{title}", "bold"))
        console.print(piece, soft_wrap=isinstance(piece, Text))
    return 0


def _pieces(kept: Kept) -> Iterator[tuple[str, Table | Text]]:
    record = kept.record
    yield "", _head(kept)
    yield "asked", _pairs(_flat("", record["provenance"]["config"]))
    yield "measured", _metrics(record["metrics"])
    if record["status"] == "ok" and (rivals := list(_rivals(kept))):
        yield "against rivals", Text("\n".join(rivals))
    for kind, name, told in (("kernels", "kernels.json", _kernels), ("phases", "phases.json", _phases),
                             ("live", "live.json", _memory), ("counters", "counters.json", _counters)):  # fmt: skip
        if content := _content(kept, kind, name):
            yield from told(content)
    if record["artifacts"]:
        yield "files", _files(kept)
    try:
        yield "the same again", Text(command(record))
    except BadRequest as error:
        yield "the same again", Text(str(error), "yellow")


def _head(kept: Kept) -> Text:
    case, origin = kept.record["case"], kept.record["provenance"]
    machine = origin["machine"]
    again = " (again)" if case.get("twin") else ""
    status = kept.record["status"]
    shape = case["shape"]
    sizes = "×".join(str(shape[axis]) for axis in ("batch_size", "seq_len", "num_heads", "emb_dim"))
    name = f"{case['backend']}{again} {sizes} {shape['dtype']} {case['mask']} {case['subject']} round {case['round']} "
    head = Text.assemble((f"{case['id']} ", "dim"), (name, "bold"), (status, COLOURS.get(status, "red")))
    versions = " · ".join(f"{name} {value}" for name, value in origin["versions"].items() if name != "source")
    lines = [*kept.record["reasons"], f"{machine.get('name')} · {versions}",
             f"commit {origin['commit']}{' (dirty)' * origin['dirty']} · {origin['started']} · sweep {origin['sweep']}",
             f"{kept.folder}/records.jsonl"]  # fmt: skip
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


def _metrics(metrics: Mapping[str, Any]) -> Table:
    table = plain_table("metric", "value", "unit", "p05–p95", "samples", "note", right=(1, 4))
    for name, each in metrics.items():
        between = "" if each["low"] is None else f"{compare.digits(each['low'])}–{compare.digits(each['high'])}"
        table.add_row(name, compare.digits(each["value"]), each["unit"], between, str(each["samples"]), each["note"])
    return table


def _rivals(kept: Kept) -> Iterator[str]:
    """Verdicts on the longest pass it was timed in, fastest rival first."""
    rows = records(kept.folder).rows
    own = [row for row in rows if row.id == kept.record["case"]["id"]]
    metric = next((f"{name}/time" for name in reversed(PASSES) if own and own[0].number(f"{name}/time")), None)
    if metric is None:
        return
    mine = own[0]
    floor = floor_of(rows, metric)
    others: dict[str, list[Row]] = {}
    for row in rows:
        if row.setting == mine.setting and row.backend != mine.backend and row.number(metric):
            others.setdefault(row.backend, []).append(row)
    for name, rival in sorted(others.items(), key=lambda each: each[1][0].number(metric) or 0):
        same = [row for row in rows if row.setting == mine.setting and row.backend == mine.backend]
        if verdict := judge(same, rival, metric, floor):
            yield f"{metric}: {verdict} the speed of {name}: {verdict.word}"
    yield str(floor)


def _content(kept: Kept, kind: str, name: str) -> Any:
    for each in kept.record["artifacts"]:
        path = kept.folder / str(each["path"])
        if each["kind"] == kind and each["path"] and path.name == name and path.is_file():
            return printable(json.loads(path.read_text(encoding="utf-8")))
    return None


def _kernels(content: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    for name, one in content.items():
        table = plain_table("", "kernel", "ms", "share", "count", "occupancy", right=(2, 3, 4, 5))
        for each in one["kernels"][:MOST]:
            occupancy = "" if each["occupancy"] is None else f"{each['occupancy']:g} %"
            table.add_row("●" if each["attention"] else "", each["name"][:90], compare.digits(each["ms"]),
                          f"{each['share']:.1f} %", f"{each['count']:g}", occupancy)  # fmt: skip
        yield f"kernels, {name}: {compare.digits(one['ms'])} ms", table


def _phases(content: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    for name, one in content.items():
        table = plain_table("phase", "", "ms", "share", right=(2, 3))
        for each in one["phases"]:
            table.add_row(each["name"], each["direction"], compare.digits(each["ms"]), f"{each['share']:.1f} %")
        yield f"phases of a {name}: {compare.digits(one['ms'])} ms", table


def _memory(content: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    table = plain_table("MB", "share", "part", "operator", "made by", right=(0, 1))
    for each in content["largest"]:
        share = f"{100 * each['bytes'] / content['peak']:.1f} %"
        table.add_row(compare.digits(each["bytes"] / MB), share, each["part"], each["operator"], each["line"])
    yield f"largest at the peak of {compare.digits(content['peak'] / MB)} MB", table


def _counters(content: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Table]]:
    yield "Nsight Compute", counters_table(content)


def _files(kept: Kept) -> Table:
    table = plain_table("kind", "MB", "file", right=(1,))
    for each in kept.record["artifacts"]:
        path = kept.folder / str(each["path"])
        there = str(path) if path.is_file() else f"{path} (removed)"
        table.add_row(each["kind"], f"{each['size'] / MB:.3f}", there if each["path"] else each.get("note", ""))
    return table
