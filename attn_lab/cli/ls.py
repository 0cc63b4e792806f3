"""attn-lab ls: the runs under runs/, or the cases of one run with their ids."""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from attn_lab.cli.parser import takes_json
from attn_lab.core.errors import BadRequest
from attn_lab.core.suggest import did_you_mean
from attn_lab.records.printable import printable
from attn_lab.records.reading import records
from attn_lab.records.record import Record
from attn_lab.report.terminal import Terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", nargs="?", metavar="RUN", help="a run folder or its name; else all under runs/")
    takes_json(parser)


def run(given: argparse.Namespace) -> int:
    files = sorted(Path("runs").glob("**/records.jsonl"))
    if given.run_name is None:
        return _list_runs(files, given.json)
    for folder in (Path(given.run_name), Path("runs", given.run_name)):
        if (folder / "records.jsonl").is_file():
            return list_cases([folder / "records.jsonl"], None, given.json)
    names = [str(file.parent.relative_to("runs")) for file in files]
    raise BadRequest(f"ls: expected a run folder with a records.jsonl, such as {', '.join(names[:5]) or 'none here'}; "
                     f"got {given.run_name!r}{did_you_mean(given.run_name, names)}")  # fmt: skip


def list_cases(files: Sequence[Path], latest: int | None, as_json: bool) -> int:
    """Print the cases of these records files, the newest last; at most `latest` of them."""
    cases = [(str(row.provenance.get("started")), file.parent, row) for file in files for row in _rows(file)]
    cases.sort(key=lambda each: each[:2])
    cases = cases[-latest:] if latest else cases
    if as_json:
        print(json.dumps([{"id": row.id, "run": str(folder), "started": started, "backend": row.backend,
                           "shape": row.shape_text, "mask": row.mask, "subject": row.subject, "status": row.status}
                          for started, folder, row in cases], indent=1, ensure_ascii=False))  # fmt: skip
        return 0
    console = Terminal(highlight=False)
    for _, folder, row in cases:
        words = f"{row.status:<8} {row.backend} {row.shape_text} {row.mask} {row.subject}"
        line = Text.assemble((f"{row.id}  ", "dim"), printable(words), (f"  {printable(str(folder))}", "dim"))
        console.print(line, soft_wrap=True)
    if not cases:
        console.print("no cases here; a sweep makes some: attn-lab experiment=demo")
    return 0


def _list_runs(files: Sequence[Path], as_json: bool) -> int:
    runs = []
    for file in files:
        rows = _rows(file)
        runs.append({
            "run": str(file.parent), "cases": len(rows), "statuses": dict(Counter(row.status for row in rows)),
            "machines": sorted({row.machine for row in rows}),
            "last": max((str(row.provenance.get("started")) for row in rows), default=""),
        })  # fmt: skip
    if as_json:
        print(json.dumps(runs, indent=1, ensure_ascii=False))
        return 0
    console = Terminal(highlight=False)
    for each in runs:
        counts = ", ".join(f"{count} {status}" for status, count in each["statuses"].items())  # type: ignore[attr-defined]
        words = f"{each['run']}: {each['cases']} cases ({counts}) · {', '.join(each['machines'])} · {each['last']}"  # type: ignore[arg-type]
        console.print(Text(printable(words)), soft_wrap=True)
    if not runs:
        console.print("no runs under runs/; a sweep makes one: attn-lab experiment=demo")
    return 0


def _rows(file: Path) -> list[Record]:
    try:
        return list(records(file.parent, newest=False).records)
    except OSError as error:
        raise BadRequest(f"ls: expected records that can be read; got {error}") from None
