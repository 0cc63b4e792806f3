"""What probes saw inside a case: the parts of its step, and the files they left beside the record."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from attn_lab.records.artifacts import inside
from attn_lab.records.record import Record

WHOLE = ("step", "of_timed")  # phases/NAME that are no parts
DIRECTIONS = ("forward", "backward")


class Phase(NamedTuple):
    """One part of a step, in one direction; "" for what has none, as the optimizer."""

    part: str
    direction: str
    ms: float


def phases(row: Record) -> list[Phase]:
    """The parts of a case's step in their order; none where no probe looked."""
    found = []
    for name in row.metrics:
        kind, _, what = name.partition("/")
        ms = row.number(name)
        if kind == "phases" and what not in WHOLE and ms is not None:
            direction, _, part = what.rpartition("/")
            found.append(Phase(part, direction if direction in DIRECTIONS else "", ms))
    return found


def files(row: Record) -> Iterator[Mapping[str, Any]]:
    """What the record lists beside its samples."""
    return (each for each in row.artifacts if each.get("kind") != "samples")


def link(row: Record, path: object, report: Path | None) -> str:
    """From the report's folder to a file of the case.  "" unless it lies in the run's own folder, and is there."""
    file = inside(row.folder, path) if row.folder is not None and report is not None else None
    if file is None or report is None:
        return ""
    return quote(Path(os.path.relpath(file.absolute(), report.absolute())).as_posix())
