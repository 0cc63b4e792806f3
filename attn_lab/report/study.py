"""Publishes runs: `python -m attn_lab.report.study RUN_FOLDER... -o DIR` writes a README.md and its pictures."""

import argparse
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from attn_lab.bench.record import STATUSES
from attn_lab.report import compare, tables
from attn_lab.report.read import AXES, Row, printable, records
from attn_lab.report.tables import escape, table

LEGEND = (
    "Times are medians of one call, in ms; the bands of the pictures are p05 to p95. A step is forward and backward, "
    "on a fresh graph. Peak memory is in MB of 2^20 bytes. Speed-ups and memory shares are against "
    f"{compare.BASELINE} at the same shape, mask and machine. Only cases whose answer was verified have numbers."
)


class Run(NamedTuple):
    name: str  # unique among the runs given
    experiment: str
    rows: list[Row]
    broken: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m attn_lab.report.study", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_FOLDER", help="a folder with a records.jsonl")
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="where README.md and the pictures go")
    given = parser.parse_args(arguments)
    out = Path(given.out)
    try:
        runs = read(given.runs)
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    try:
        publish(runs, out)
    except ModuleNotFoundError as error:
        print(f"study: its pictures need {error.name}: pip install 'attn-lab[report]'", file=sys.stderr)
        return 2
    for line in (line for run in runs for line in run.broken):
        print(f"study: not read: {line}", file=sys.stderr)
    print(out / "README.md")
    return 0


def read(folders: Sequence[str | Path]) -> list[Run]:
    """One Run a folder and experiment.  Raises OSError for one that cannot be read, ValueError if none is ok."""
    runs: list[Run] = []
    for place, folder in {Path(folder).resolve(): folder for folder in folders}.items():
        rows, broken = records(folder, newest=False)
        own = printable((place if place.is_dir() else place.parent).name) or "run"
        swept: dict[str, dict[str, Row]] = {} if rows else {own: {}}
        for row in rows:  # of a case run again in the same experiment the later line holds
            swept.setdefault(_experiment(row) or own, {})[row.id] = row
        for experiment, found in swept.items():
            taken = [run.experiment for run in runs].count(experiment)
            name = f"{experiment}-{taken + 1}" if taken else experiment
            runs.append(Run(name, experiment, compare.distinct(list(found.values())), broken))
            broken = []
    if not any(row.status == "ok" for run in runs for row in run.rows):
        counts = Counter(row.status for run in runs for row in run.rows)
        told = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no record at all"
        raise ValueError(f"no ok record in {', '.join(map(str, folders))}: there is nothing to publish ({told})")
    return runs


def _experiment(row: Row) -> str | None:
    """The experiment a row's sweep was named for, if it is one of ours; a file may hold the sweeps of several."""
    named = re.sub(r"-\d{8}-\d{6}-\d+$", "", str(row.provenance.get("sweep")))
    return next((name for name in _experiments() if name.replace("/", "-") == named), None)


@cache
def _experiments() -> list[str]:
    conf = str(resources.files("attn_lab.conf") / "experiment")
    return [str(path.relative_to(conf).with_suffix("")) for path in Path(conf).rglob("*.yaml")]


def publish(runs: Sequence[Run], out: Path) -> None:
    """Writes the study into the folder `out`."""
    from attn_lab.report import figures

    look = figures.looks([row.backend for run in runs for row in run.rows])
    parts = _head(runs)
    for run in runs:
        parts.append(f"## {escape(run.name)}")
        rows = compare.pooled(run.rows)
        told: list[list[Row]] = []
        for axis in AXES:
            # Two axes that move together make one family: telling it twice would look like two results.
            for count, family in enumerate((one for one in families(rows, axis) if one not in told), start=1):
                told.append(family)
                title = tables.fixed(family, axis)
                parts.append(f"### {axis}: {escape(title)}")
                picture = _file(run.name, axis, count)
                if figures.draw_axis(out / picture, family, axis, f"{axis}: {title}", look):
                    parts.append(f"![{axis}: times, TFLOP/s and peak memory of each backend]({picture})")
                parts += tables.of_axis(family, axis)
        rest = [row for row in rows if not any(row in family for family in told)]
        for count, (_, group) in enumerate(groupby(sorted(rest, key=compare.order), lambda row: row.setting), start=1):
            point = list(group)
            title = compare.text(point[0], list(point[0].asked))
            parts.append(f"### {escape(title)}")
            picture = _file(run.name, "point", count)
            if figures.draw_point(out / picture, point, title, look):
                parts.append(f"![Times and peak memory of each backend]({picture})")
            parts += tables.of_point(point)
        if not rows:
            parts.append("No record.")
    (out / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def families(rows: Sequence[Row], axis: str) -> list[list[Row]]:
    """Rows that differ in one axis (and what moves with it), wherever it takes more than one value."""
    asked = [(row, row.asked) for row in rows]
    names = sorted({name for _, one in asked for name in one} - {axis})
    context = ["machine", "subject", "mask", "dtype"]
    held = []
    for name in names:
        places: dict[object, set[object]] = {}
        for _, one in asked:
            places.setdefault((one[axis], *(one.get(word) for word in context)), set()).add(one.get(name))
        # A field with one value at each place of the axis moves with it: emb_dim where head_dim was given.
        if name in context or any(len(values) > 1 for values in places.values()):
            held.append(name)
    found: dict[object, list[Row]] = {}
    for row, one in asked:
        found.setdefault(tuple(one.get(name) for name in held), []).append(row)
    several = [family for family in found.values() if len({row.shape[axis] for row in family}) > 1]
    return [sorted(family, key=compare.order) for family in several]


def _head(runs: Sequence[Run]) -> list[str]:
    rows = [row for run in runs for row in run.rows]
    broken = [line for run in runs for line in run.broken]
    lines = []
    for run in runs:
        counts = Counter(row.status for row in run.rows)
        sweeps = sorted({str(row.provenance.get("sweep", "")) for row in run.rows})
        command = tables.code(f"attn-lab -m experiment={shlex.quote(run.experiment)}")
        numbers = [str(counts[status] or "–") for status in STATUSES]
        lines.append([escape(run.name), command, escape(", ".join(sweeps)), str(len(run.rows)), *numbers])
    measured_on = [[escape(name), escape(value)] for name, value in tables.origin(rows)]
    return [
        "# Attention study",
        *tables.warnings(rows, broken),
        table(["", "measured on"], measured_on),
        table(["run", "command", "sweep", "cases", *STATUSES], lines, right=range(3, 4 + len(STATUSES))),
        LEGEND,
    ]


def _file(run: str, what: str, count: int) -> str:
    name = "-".join(dict.fromkeys([re.sub(r"[^A-Za-z0-9._-]+", "-", run).strip("-.") or "run", what]))
    return f"{name}{f'-{count}' if count > 1 else ''}.png"


if __name__ == "__main__":
    sys.exit(main())
