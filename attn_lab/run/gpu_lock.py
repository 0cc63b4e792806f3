"""GPUs locked against other sweeps of the same user on this host."""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from attn_lab.core.errors import BadRequest

POLL = 0.5  # seconds between two attempts at a GPU that is in use


class GpuLocks:
    """One lock a GPU, by its UUID; none for no UUIDs.  Released by `release`, and when this process ends."""

    def __init__(self, uuids: Sequence[str]):
        self._uuids = sorted(uuids)  # in one order for all processes: no two wait for each other
        self._locks: list[FileLock] = []

    def acquire(self) -> Iterator[str]:
        """Yields "" at each attempt that fails, but at the first of a GPU a line that says what is waited for.

        Raises BadRequest where the folder of locks is another user's.
        """
        folder = _private_folder() if self._uuids else Path()
        for uuid in self._uuids:
            lock, waited = FileLock(folder / f"{uuid}.lock", blocking=False, mode=0o600), False
            while not _acquired(lock):
                holder = _read(folder / f"{uuid}.pid") or "unknown"
                yield "" if waited else f"GPU {uuid} is in use by another sweep, process {holder}: waiting for it"
                waited = True
                time.sleep(POLL)
            self._locks.append(lock)
            _write(folder / f"{uuid}.pid", str(os.getpid()))

    def release(self) -> None:
        while self._locks:
            self._locks.pop().release()


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire()
    except Timeout:
        return False
    except OSError as error:
        raise BadRequest(f"{lock.lock_file}: expected a lock file of this user's; got {error}") from None
    return True


def _private_folder() -> Path:
    """A folder that this user alone may write to, made if it must be."""
    folder = platformdirs.user_runtime_path("attn_lab", appauthor=False)
    for each in (folder.parent, folder):
        try:
            each.mkdir(mode=0o700, exist_ok=True)
            found = each.lstat()
        except OSError as error:
            raise BadRequest(_expected(each, str(error))) from None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            owner = f"owner {found.st_uid}, mode {stat.filemode(found.st_mode)}"
            raise BadRequest(_expected(each, owner))
    return folder


def _expected(folder: Path, got: str) -> str:
    return (f"{folder}: expected a folder that this user alone may write to, for locks of GPUs; got {got} "
            "(remove it, or set XDG_RUNTIME_DIR)")  # fmt: skip


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)


def _read(path: Path) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            return file.read(20).strip()
    except (OSError, ValueError):
        return ""
