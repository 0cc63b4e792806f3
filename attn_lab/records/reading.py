"""Run folders read as records: every whole line, the newest of each case, and what was broken by name."""

import os
import stat
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from attn_lab.records.broken import BrokenLines
from attn_lab.records.printable import printable
from attn_lab.records.record import Record
from attn_lab.records.schema import decode

NAME = "records.jsonl"
SHARDS = "shards"  # folder of records that remote workers wrote and no sweep has merged


class Reading(NamedTuple):
    """The records that could be read, and the lines that could not."""

    records: list[Record]
    broken: BrokenLines


def records(
    path: str | Path | Iterable[str | Path],
    sweep: str | None = None,
    *,
    newest: bool = True,
    same: Callable[[Record], Hashable] = lambda record: record.id,
    broken: BrokenLines | None = None,
) -> Reading:
    """The records of one or more run folders (or records files); of a case run again only the newest, by default.

    `same` says which records are one case; `broken` collects what cannot be read, now or when samples are.  Read as a
    stream: what a later line replaces is not held.  Raises OSError for a folder without records.
    """
    found: list[Record] = []
    broken = BrokenLines() if broken is None else broken
    for one in [path] if isinstance(path, str | Path) else path:
        those = (each for each in read_file(_file(Path(one)), broken)
                 if sweep in (None, each.provenance["sweep"]))  # fmt: skip
        found += _newest(those, same) if newest else those
    if newest:
        by_start = sorted(found, key=lambda record: record.provenance["started"])
        found = list({same(record): record for record in by_start}.values())
    return Reading(found, broken)


def read_file(file: Path, broken: BrokenLines) -> Iterator[Record]:
    """The records of a file in order; for a run folder's records.jsonl those of its unmerged shards too."""
    shards = sorted(file.parent.glob(f"{SHARDS}/*.jsonl")) if file.name == NAME else []
    if not shards:
        yield from _lines(file, file.parent, broken)
        return
    every = (record for each in (file, *shards) for record in _lines(each, file.parent, broken))
    once = {(record.id, record.provenance["started"]): record for record in every}
    yield from sorted(once.values(), key=lambda record: record.provenance["started"])


def open_regular(file: Path) -> BinaryIO:
    """A file opened for reading, never waiting.  Raises OSError for a FIFO, a device, a folder or a loop of links."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(22, "not a regular file", str(file))
    return os.fdopen(descriptor, "rb")


def _newest(found: Iterable[Record], same: Callable[[Record], Hashable]) -> list[Record]:
    """Of one file: the later line is the newer, regardless of timestamps, and supersedes other versions' answers.

    Between files only `started` can tell, and versions may be what is compared.
    """
    latest: dict[Hashable, Record] = {}
    for record in found:
        latest.pop(same(record), None)
        latest[same(record)] = record
    answered = {(record.question, record.machine): record.id for record in latest.values()}
    return [record for record in latest.values() if answered[record.question, record.machine] == record.id]


def _file(path: Path) -> Path:
    file = path / NAME if path.is_dir() else path
    try:
        if file.is_file():
            return file
    except (OSError, RuntimeError) as error:  # a loop of links
        raise OSError(f"{printable(str(path))}: {error}") from None
    named = printable(str(path))
    if file.exists():
        raise OSError(f"expected a regular file {NAME} in {named}")
    raise FileNotFoundError(f"no {NAME} in {named}" if path.is_dir() else f"no such run folder: {named}")


def _lines(file: Path, folder: Path, broken: BrokenLines) -> Iterator[Record]:
    with open_regular(file) as lines:
        for count, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield decode(line, folder, broken)
                except ValueError as error:  # msgspec's own are among them
                    broken.note([f"{printable(str(file))}:{count}: {printable(str(error))[:200]}"], 1)
