"""records.jsonl, the truth: one line a case, appended and flushed, whole or not at all; raw samples lie beside it."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attn_lab.bench.files import Shelf, scratch
from attn_lab.bench.record import Record


class Jsonl:
    """Appends to FOLDER/records.jsonl.  OSError if it cannot; a line that did not fit is taken back.

    A record's samples go to FOLDER/samples/ID.npz first, by metric, as 32-bit floats: of a case run again, the newest.
    The files that probes left go to FOLDER/profile/ID/, none larger than `file_mb` MB, all of them at most `total_mb`.
    """

    name = "records.jsonl"

    def __init__(self, *, folder: Path, sweep: str, file_mb: float = 64, total_mb: float = 2048):
        self.folder, self._sweep = folder, sweep
        self._shelf = Shelf(folder, file_mb, total_mb)
        self.path = folder / self.name
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  held until close
        self.where = f"records: {self.path}"

    def write(self, record: Record) -> None:
        if record.series:
            record = replace(record, artifacts=[*record.artifacts, self._samples(record)])
        if record.files:
            kept = self._shelf.take(record.case["id"], record.files)
            record = replace(record, artifacts=[*record.artifacts, *kept])
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
        shutil.rmtree(scratch(self._sweep), ignore_errors=True)  # what cases left that died before they had a record
        self.where = "; ".join([self.where, *self._shelf.told])

    def _samples(self, record: Record) -> dict[str, str | int]:
        path = self.folder / "samples" / f"{record.case['id']}.npz"
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                samples: Any = {name: np.asarray(values, np.float32) for name, values in record.series.items()}
                np.savez(file, **samples)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from None
        return {"kind": "samples", "path": f"samples/{path.name}", "size": path.stat().st_size}
