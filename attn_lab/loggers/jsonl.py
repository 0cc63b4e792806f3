"""The logger of the run folder's records.jsonl: the truth that all else is made from."""

from pathlib import Path

from attn_lab.records.artifacts import FILE_MB, TOTAL_MB
from attn_lab.records.record import Record
from attn_lab.records.store import RunStore


class Jsonl:
    """Appends to FOLDER/records.jsonl through the run's store; samples and artifacts lie beside it.

    `file_mb` and `total_mb` cap the artifacts.  Raises OSError if the file cannot be opened; `write` StorageError.
    """

    def __init__(self, *, folder: Path, sweep: str, file_mb: float = FILE_MB, total_mb: float = TOTAL_MB):
        self.store = RunStore(folder, sweep=sweep, file_mb=file_mb, total_mb=total_mb)
        self.store.open()
        self.path = self.store.path
        self.where = f"records: {self.path}"

    def write(self, record: Record) -> None:
        self.store.append(record)

    def close(self) -> None:
        self.store.close()
        self.where = "; ".join([self.where, *self.store.notices])
