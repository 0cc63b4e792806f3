"""The run folder: made, held by one process at a time, and its records.jsonl left with whole lines only."""

import fcntl
import json
import os
import platform
import shutil
from pathlib import Path
from typing import IO

from attn_lab.core.errors import BadRequest
from attn_lab.sweep.provenance import now


class RunFolder:
    """Ours from here until closed, or until this process ends, however it ends.  Raises BadRequest if it cannot be."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._fresh = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(13, "not writable")
            self._lock = open(path / ".lock", "a+")  # noqa: SIM115  held until close
        except OSError as error:
            raise unusable(path, error) from None
        try:
            self._hold()
        except (BadRequest, OSError):
            self._lock.close()
            raise

    def repair(self) -> str:
        """Move what a killed writer left of a last line to records.jsonl.torn.  Returns a line that says so, or "".

        A whole record that only lacks its newline is given one.
        """
        records = self.path / "records.jsonl"
        if not records.is_file() or not records.stat().st_size:
            return ""
        try:
            with records.open("rb+") as file:
                if not (torn := _after_last_newline(file)):
                    return ""
                if _is_json(torn):
                    file.seek(0, os.SEEK_END)
                    file.write(b"\n")
                    return ""
                with records.with_suffix(".jsonl.torn").open("ab") as aside:
                    aside.write(torn + b"\n")
                file.truncate(file.seek(0, os.SEEK_END) - len(torn))
        except OSError as error:
            raise unusable(self.path, error) from None
        return f"{records}: its last line was torn; {len(torn)} bytes of it are now in {records.name}.torn"

    def take_back(self) -> None:
        """Close it, and leave nothing of it behind that was not there before."""
        self.close()
        if self._fresh:
            shutil.rmtree(self.path)
            for folder in self._fresh[1:]:
                folder.rmdir()

    def close(self) -> None:
        self._lock.close()

    def _hold(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            raise BadRequest(
                f"run folder {self.path}: expected it free; got one in use by {holder} "
                f"(wait for it to end, or name=… takes another folder)"
            ) from None
        except OSError as error:
            raise unusable(self.path, error) from None
        try:
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {platform.node()}, since {now()}")
            self._lock.flush()
        except OSError as error:
            raise unusable(self.path, error) from None


def unusable(path: Path, error: OSError) -> BadRequest:
    return BadRequest(f"run folder {path}: expected a folder to write to; got {error.strerror} (name=… moves it)")


def _after_last_newline(file: IO[bytes]) -> bytes:
    end, tail = file.seek(0, os.SEEK_END), b""
    while end and b"\n" not in tail:
        start = max(end - 65536, 0)
        file.seek(start)
        tail = file.read(end - start) + tail
        end = start
    return tail.rpartition(b"\n")[2]


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
