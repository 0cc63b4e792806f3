"""Lines appended to one file, each on the disk whole or not at all, and only while the path is still that file."""

import errno
import os
import stat
from pathlib import Path

from attn_lab.core.errors import StorageError


class Appender:
    """`append` writes a line and syncs it; a line that did not fit is truncated away.

    Raises OSError if the file cannot be opened: it must be a regular one, and is never waited for.
    """

    def __init__(self, path: Path):
        self.path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        try:
            self._file = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a FIFO without a reader
                raise OSError(error.errno, "not a regular file", str(path)) from None
            raise
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            os.close(self._file)
            raise OSError(errno.EINVAL, "not a regular file", str(path))

    def append(self, line: bytes) -> None:
        """Raises StorageError, in one line, where the line cannot be written or would be lost."""
        self.check()
        before = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):  # a full disk may take part of it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError as error:
            if os.fstat(self._file).st_size > before:
                os.ftruncate(self._file, before)
            raise no_room(self.path, error) from None

    def check(self) -> None:
        """Raises StorageError if the path is no longer the file that was opened."""
        try:
            now, opened = os.stat(self.path), os.fstat(self._file)
        except OSError as error:
            raise StorageError(
                f"{self.path}: expected the file that this process writes to; got {error.strerror}: it or its folder "
                "was deleted or renamed meanwhile"
            ) from None
        if (now.st_dev, now.st_ino) != (opened.st_dev, opened.st_ino):
            raise StorageError(
                f"{self.path}: expected the file that this process writes to; got another one: it was replaced "
                "meanwhile (by an editor, sed -i, git or rsync)"
            )

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def no_room(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{error.filename or path}: expected room for a record; got {error.strerror or error}")
