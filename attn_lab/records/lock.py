"""The lock of a run folder: one process writes to it at a time, and says which."""

import os
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from attn_lab.core.errors import BadRequest

NAME, HOLDER = ".lock", ".lock.holder"


class FolderLock:
    """Held from here until `release`, or until this process ends, however it ends.  Makes the folder if it must.

    Raises BadRequest for a folder that cannot be written to, or that another process holds.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self._made = [each for each in (folder, *folder.parents) if not each.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(13, "not writable")
            self._lock = FileLock(folder / NAME, blocking=False, mode=0o644)
            self._lock.acquire()
            self._name_holder()
        except Timeout:
            raise BadRequest(
                f"run folder {folder}: expected it free; got one in use by {self._holder()} "
                f"(wait for it to end, or name=… takes another folder)"
            ) from None
        except (OSError, NotImplementedError) as error:
            self.release()
            raise unusable(folder, error) from None

    def release(self) -> None:
        if (lock := getattr(self, "_lock", None)) and lock.is_locked:
            (self.folder / HOLDER).unlink(missing_ok=True)
            lock.release()

    def discard(self) -> None:
        """Remove what this lock made, if the folder was not there before; then release it."""
        try:
            if self._made:
                shutil.rmtree(self.folder)  # while it is locked: nothing has begun in it
                for each in self._made[1:]:
                    each.rmdir()
        finally:
            self.release()

    def _name_holder(self) -> None:
        """Write which process holds it, never through a link that lies there."""
        (self.folder / HOLDER).unlink(missing_ok=True)
        with open(self.folder / HOLDER, "x", encoding="utf-8") as file:
            file.write(f"process {os.getpid()} on {platform.node()}, since {_now()}")

    def _holder(self) -> str:
        try:
            return (self.folder / HOLDER).read_text().strip() or "another process"
        except (OSError, ValueError):
            return "another process"

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def unusable(folder: Path, error: BaseException) -> BadRequest:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return BadRequest(f"run folder {folder}: expected a folder to write to; got {why} (name=… moves it)")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
