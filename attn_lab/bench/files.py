"""Files that probes leave: where they lie until a case has its record, and the shelf in the run's folder after that."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_lab.core.errors import BadRequest

MB = 2**20


@dataclass(frozen=True, slots=True)
class File:
    """What is no number: a trace, a table, a picture.  It lies in a scratch folder until a logger takes it from there.

    It goes to other processes by its path, never by what is in it.
    """

    kind: str
    path: Path


def scratch(sweep: str) -> Path:
    """Where the files of a sweep's cases lie until they are kept.  Who keeps them clears it away."""
    return Path(tempfile.gettempdir()) / f"attn-lab-scratch-{os.getuid()}-{sweep}"


def place(case_id: str, name: str) -> str:
    """The path of a file in its run's folder."""
    return f"profile/{case_id}/{name}"


class Shelf:
    """RUN/profile/ID/: no file of more than `file_mb` MB, and of all together at most `total_mb`; the oldest make room.

    Raises BadRequest for limits that are none.  `told` is what had to give way, to be said at the end.
    """

    def __init__(self, folder: Path, file_mb: float, total_mb: float):
        for name, value in (("file_mb", file_mb), ("total_mb", total_mb)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise BadRequest(f"logger.jsonl.{name}: expected more than 0 (MB); got {value!r}")
        self._folder, self._file_mb, self._total_mb = folder, file_mb, total_mb
        self._removed = self._left_out = 0

    def take(self, case_id: str, files: Sequence[File]) -> list[dict[str, Any]]:
        """Move the files of one case in, each whole or not at all; returns their entries for the record's artifacts.

        Raises OSError, naming the file, if there is no room on the disk.
        """
        entries = []
        for file in files:
            size = file.path.stat().st_size
            entry: dict[str, Any] = {"kind": file.kind, "path": place(case_id, file.path.name), "size": size}
            if why := self._too_large(size):
                self._left_out += 1
                entry |= {"path": None, "note": f"{file.path.name} left out: {why}"}
                file.path.unlink()
            else:
                self._make_room(size, but=case_id)
                self._move(file.path, self._folder / entry["path"])
            entries.append(entry)
        return entries

    @property
    def told(self) -> list[str]:
        said = []
        if self._removed:
            said.append(f"{self._removed} of the oldest profile files removed (logger.jsonl.total_mb={self._total_mb})")
        if self._left_out:
            said.append(f"{self._left_out} profile files left out (logger.jsonl.file_mb={self._file_mb})")
        return said

    def _too_large(self, size: int) -> str:
        for name, limit in (("file_mb", self._file_mb), ("total_mb", self._total_mb)):
            if size > limit * MB:
                return f"{size / MB:.1f} MB, more than logger.jsonl.{name}={limit}"
        return ""

    def _make_room(self, size: int, but: str) -> None:
        """Remove the oldest files of other cases, and of this one if there are no others, until `size` bytes fit."""
        there = sorted(self._kept(), key=lambda file: (file[0].parent.name == but, file[1].st_mtime_ns))
        total = sum(stat.st_size for _, stat in there) + size
        for path, stat in there:
            if total <= self._total_mb * MB:
                return
            path.unlink()
            total -= stat.st_size
            self._removed += 1
            if not any(path.parent.iterdir()):
                path.parent.rmdir()

    def _kept(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._folder.glob("profile/*/*"):
            yield path, path.stat()

    def _move(self, source: Path, target: Path) -> None:
        part = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, part)  # a copy, where the scratch folder is on another disk
            part.replace(target)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise OSError(error.errno, error.strerror, str(target)) from None
