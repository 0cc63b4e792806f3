"""records.jsonl, the truth: one line a case, appended and flushed, whole or not at all."""

import os
from pathlib import Path

from attn_lab.bench.record import Record


class Jsonl:
    """Appends to FOLDER/records.jsonl.  OSError if it cannot; a line that did not fit is taken back."""

    def __init__(self, *, folder: Path, sweep: str):
        self.path = folder / "records.jsonl"
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  held until close
        self.where = f"records: {self.path}"

    def write(self, record: Record) -> None:
        line = record.line().encode()
        before = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written != len(line):  # a full disk may take part of it
                raise OSError(28, "No space left on device", str(self.path))
        except OSError:
            if os.fstat(self._file.fileno()).st_size > before:
                os.ftruncate(self._file.fileno(), before)
            raise
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
