"""A run folder: records.jsonl, the truth, with samples and artifacts beside it; one writer, many readers."""

import glob
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from attn_lab.core.errors import BadRequest
from attn_lab.records.appender import Appender, no_room
from attn_lab.records.artifacts import FILE_MB, TOTAL_MB, ArtifactStore, scratch
from attn_lab.records.broken import BrokenLines
from attn_lab.records.lock import FolderLock, unusable
from attn_lab.records.reading import NAME, SHARDS, Reading, open_regular, read_file
from attn_lab.records.record import Record
from attn_lab.records.samples import read_samples, write_samples
from attn_lab.records.schema import decode

LEAST_PREFIX = 4  # characters of an id that are enough where only one case begins with them


class RunStore:
    """The store of one run folder.  Nothing is made or opened before `lock`, `open` or `append`.

    `file_mb` and `total_mb` cap the artifacts; `sweep` names the scratch folder that `close` removes.
    """

    def __init__(self, folder: str | Path, *, sweep: str = "", file_mb: float = FILE_MB, total_mb: float = TOTAL_MB,
                 name: str = NAME, prune: bool = True):  # fmt: skip
        self.folder, self.path = Path(folder), Path(folder) / name
        self._sweep, self._artifacts = sweep, ArtifactStore(self.folder, file_mb, total_mb, prune=prune)
        self._file_mb, self._total_mb = file_mb, total_mb
        self._appender: Appender | None = None
        self._lock: FolderLock | None = None

    def lock(self) -> FolderLock:
        """Hold the folder, made if it must be: one writer at a time.  Use it as a context manager, or `close`.

        Raises BadRequest, with the holder's name, where another process has it, and for a folder not to be written to.
        """
        self._lock = FolderLock(self.folder)
        return self._lock

    def open(self) -> None:
        """Open the file for writing now rather than at the first record.  Raises OSError if it cannot be."""
        if self._appender is None:
            self._appender = Appender(self.path)

    def append(self, record: Record) -> Record:
        """Write samples and artifacts, then the record that names them, each synced; returns what was written.

        Raises StorageError, in one line, on a full disk, or where records.jsonl was replaced, deleted or renamed.
        """
        try:
            self.open()
            assert self._appender is not None
            self._appender.check()
            entries = list(record.artifacts)
            if record.series:
                entries.append(write_samples(self.folder, record.id, record.series))
            if record.files:
                entries += self._artifacts.add(record.id, record.files)
        except OSError as error:
            raise no_room(self.path, error) from None
        record = replace(record, artifacts=entries, folder=self.folder)
        self._appender.append(record.line().encode())
        return record

    def records(self, broken: BrokenLines | None = None) -> Reading:
        """All records in the order they were written, those of unmerged shards included; [] where there is no file."""
        broken = BrokenLines() if broken is None else broken
        return Reading(list(read_file(self.path, broken)) if self.path.exists() else [], broken)

    def find(self, prefix: str, broken: BrokenLines | None = None) -> list[Record]:
        """The newest record of each case whose id is, or begins with, `prefix` (at least 4 characters)."""
        if len(prefix) < LEAST_PREFIX:
            return []
        return list({each.id: each for each in self.records(broken).records if each.id.startswith(prefix)}.values())

    def samples(self, record: Record) -> dict[str, list[float]]:
        """Raw samples by metric; {} where there are none, or where they cannot be read (counted in record.broken)."""
        found = read_samples(self.folder, record.artifacts, record.broken)
        return {name: each.tolist() for name, each in found.items()}

    def repair(self) -> str:
        """Move what a killed writer left of a last line to records.jsonl.torn.  Returns a line that says so, or "".

        A whole record that only lacks its newline is given one.  Raises BadRequest if the file cannot be mended.
        """
        if not self.path.is_file() or not self.path.stat().st_size:
            return ""
        try:
            with self.path.open("rb+") as file:
                if not (torn := _after_last_newline(file)):
                    return ""
                if _is_record(torn):
                    file.seek(0, os.SEEK_END)
                    file.write(b"\n")
                    return ""
                with self.path.with_suffix(".jsonl.torn").open("ab") as aside:
                    aside.write(torn + b"\n")
                file.truncate(file.seek(0, os.SEEK_END) - len(torn))
        except OSError as error:
            raise unusable(self.folder, error) from None
        return f"{self.path}: its last line was torn; {len(torn)} bytes of it are now in {self.path.name}.torn"

    def shard(self, worker: str) -> "RunStore":
        """The store of one remote worker: a file of its own under shards/, samples and artifacts in the same folder."""
        (self.folder / SHARDS).mkdir(exist_ok=True)
        return RunStore(self.folder, file_mb=self._file_mb, total_mb=self._total_mb, name=f"{SHARDS}/{worker}.jsonl")

    def follow_shards(self, prefix: str, read: dict[Path, int]) -> Iterator[tuple[str, Record]]:
        """(worker, record) of each new whole line in shards whose name begins with `prefix.`.

        `read` is how far each shard was read, and is updated.  A line that does not validate is skipped.
        """
        for file in sorted((self.folder / SHARDS).glob(f"{glob.escape(prefix)}.*.jsonl")):
            with open_regular(file) as lines:
                lines.seek(read.get(file, 0))
                while (line := lines.readline()).endswith(b"\n"):
                    read[file] = lines.tell()
                    with suppress(ValueError):
                        yield file.name.split(".")[-2], decode(line, self.folder)

    def drop_shards(self, prefix: str) -> None:
        """Remove the shards whose name begins with `prefix.`: their records are merged."""
        for file in (self.folder / SHARDS).glob(f"{glob.escape(prefix)}.*.jsonl"):
            file.unlink(missing_ok=True)
        with suppress(OSError):  # others' are in it
            (self.folder / SHARDS).rmdir()

    @property
    def notices(self) -> list[str]:
        """What the artifact cap removed or left out."""
        return self._artifacts.notices

    def close(self) -> None:
        """Close the file, remove the sweep's scratch folder, release the lock."""
        if self._appender:
            self._appender.close()
            self._appender = None
        if self._sweep:
            shutil.rmtree(scratch(self._sweep), ignore_errors=True)  # left by cases that died before their record
        if self._lock:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> "RunStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_case(prefix: str, folders: Sequence[str | Path] = ()) -> Record:
    """The case whose id is, or begins with, `prefix`; of several folders that have it, from the one written last.

    Without folders, those under runs/ are searched.  Raises BadRequest for none, and for several cases.
    """
    places = [Path(folder) for folder in folders] or sorted({file.parent for file in Path("runs").glob(f"**/{NAME}")})
    for place in places:
        if not (place / NAME).is_file():
            raise BadRequest(f"expected a run folder with a {NAME}; got {place}")
    places.sort(key=lambda place: (place / NAME).stat().st_mtime_ns)
    broken = BrokenLines()
    try:
        found = {each.id: each for place in places for each in RunStore(place).find(prefix, broken)}
    except OSError as error:
        raise BadRequest(f"expected a run folder with a {NAME} that can be read; got {error}") from None
    where = ", ".join(map(str, places)) or "runs/, where nothing is"
    if not found:
        unread = f" ({broken.total} broken lines, the first {broken[0]})" if broken else ""
        raise BadRequest(f"expected the id of a case, or its first {LEAST_PREFIX} characters or more; got {prefix!r}, "
                         f"which no record has in {where}{unread}")  # fmt: skip
    if len(found) > 1:
        raise BadRequest(f"expected the id of one case; {prefix!r} begins those of {', '.join(sorted(found))}")
    return next(iter(found.values()))


def _after_last_newline(file: IO[bytes]) -> bytes:
    end, tail = file.seek(0, os.SEEK_END), b""
    while end and b"\n" not in tail:
        start = max(end - 65536, 0)
        file.seek(start)
        tail = file.read(end - start) + tail
        end = start
    return tail.rpartition(b"\n")[2]


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
