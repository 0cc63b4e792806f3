"""Files that probes leave: in a scratch folder until a case has its record, then in the run folder, within its cap."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from attn_lab.core.errors import BadRequest

MB = 2**20
FILE_MB, TOTAL_MB = 64.0, 2048.0
LONGEST_NAME, LONGEST_PATH = 255, 1024


@dataclass(frozen=True, slots=True)
class File:
    """A trace, a table, a picture.  It lies in a scratch folder until the store moves it; processes send its path."""

    kind: str
    path: Path


def scratch(sweep: str) -> Path:
    """Where the files of a sweep's cases lie until the store takes them.  The store removes it when it closes."""
    return Path(tempfile.gettempdir()) / f"attn-lab-scratch-{os.getuid()}-{sweep}"


def artifact_path(case_id: str, name: str) -> str:
    """The path of a file in its run folder."""
    return f"profile/{case_id}/{name}"


def inside(folder: Path, path: object) -> Path | None:
    """The regular file that a record's artifact names; None unless it is there and lies in the run folder.

    Symbolic links are followed first: none may lead out of the folder.
    """
    if not isinstance(path, str) or why_not_inside(path):
        return None
    try:
        whole = (folder / path).resolve(strict=True)
        return folder / path if whole.is_relative_to(folder.resolve()) and whole.is_file() else None
    except (OSError, RuntimeError):  # not there, not allowed, or a loop of links
        return None


def why_not_inside(path: str) -> str:
    """What is wrong with an artifact's path as written; empty where nothing is."""
    plain = PurePosixPath(path)
    if not path or plain.is_absolute() or ".." in plain.parts or "\0" in path:
        return "expected a path inside the run folder"
    names = [len(part.encode(errors="replace")) for part in plain.parts]
    if len(path.encode(errors="replace")) > LONGEST_PATH or max(names) > LONGEST_NAME:
        return f"expected a path of at most {LONGEST_PATH} bytes, each name of at most {LONGEST_NAME}"
    return ""


def sync_folder(path: Path) -> None:
    """Have a rename in this folder outlive a power cut, where the file system can."""
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class ArtifactStore:
    """RUN/profile/ID/: no file of more than `file_mb` MB, all together at most `total_mb`; the oldest make room.

    `prune=False` removes no other case's files: one that does not fit is left out.  Several processes may use one
    folder.  Raises BadRequest for limits that are none.  `notices` says at the end what was removed or left out.
    """

    def __init__(self, folder: Path, file_mb: float = FILE_MB, total_mb: float = TOTAL_MB, *, prune: bool = True):
        for name, value in (("file_mb", file_mb), ("total_mb", total_mb)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise BadRequest(f"logger.jsonl.{name}: expected more than 0 (MB); got {value!r}")
        self._folder, self._file_mb, self._total_mb, self._prune = folder, file_mb, total_mb, prune
        self._removed = self._left_out = 0

    def add(self, case_id: str, files: Sequence[File]) -> list[dict[str, Any]]:
        """Move the files of one case in, each whole or not at all; returns their entries for the record's artifacts.

        Raises OSError that names the file if there is no room on the disk.
        """
        entries = []
        for file in files:
            size = file.path.stat().st_size
            path = artifact_path(case_id, file.path.name)
            entry: dict[str, Any] = {"kind": file.kind, "path": path, "size": size}
            if why := self._too_large(size) or self._no_room(size, case_id, self._folder / path):
                self._left_out += 1
                entry |= {"path": None, "note": f"{file.path.name} left out: {why}"}
                file.path.unlink()
            else:
                self._move(file.path, self._folder / path)
            entries.append(entry)
        return entries

    @property
    def notices(self) -> list[str]:
        notes = []
        if self._removed:
            notes.append(
                f"{self._removed} of the oldest profile files removed (logger.jsonl.total_mb={self._total_mb})"
            )
        if self._left_out:
            notes.append(f"{self._left_out} profile files left out (logger.jsonl.file_mb={self._file_mb})")
        return notes

    def _too_large(self, size: int) -> str:
        for name, limit in (("file_mb", self._file_mb), ("total_mb", self._total_mb)):
            if size > limit * MB:
                return f"{size / MB:.1f} MB, more than logger.jsonl.{name}={limit}"
        return ""

    def _no_room(self, size: int, case_id: str, target: Path) -> str:
        """Remove the oldest files of other cases, and of this one if there are no others, until `size` bytes fit."""
        there = [file for file in self._files() if file[0] != target]  # its older version makes room for it anyway
        total = sum(stat.st_size for _, stat in there) + size
        if total <= self._total_mb * MB:
            return ""
        if not self._prune:
            return f"{total / MB:.1f} MB with what is there, more than logger.jsonl.total_mb={self._total_mb}"
        for path, stat in sorted(there, key=lambda file: (file[0].parent.name == case_id, file[1].st_mtime_ns)):
            if total <= self._total_mb * MB:
                break
            with suppress(FileNotFoundError):  # another process made room at the same time
                path.unlink()
                self._removed += 1
            total -= stat.st_size
            with suppress(OSError):  # not empty, or gone
                path.parent.rmdir()
        return ""

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder, _, names in os.walk(self._folder / "profile"):  # a folder may be gone before it is looked into
            for name in names:
                if name.startswith(".") and name.endswith(".part"):
                    continue  # another process is writing it
                with suppress(FileNotFoundError):
                    yield (path := Path(folder, name)), path.stat()

    def _move(self, source: Path, target: Path) -> None:
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        for last in (False, True):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                if source.exists():
                    shutil.move(source, part)  # a copy, where the scratch folder is on another disk
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                part.replace(target)
                return
            except FileNotFoundError:
                if last:  # at first the folder may have been empty, and removed by another process
                    raise
            except OSError as error:
                with suppress(OSError):
                    part.unlink()
                raise OSError(error.errno, error.strerror, str(target)) from None
