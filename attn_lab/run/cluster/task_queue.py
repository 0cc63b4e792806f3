"""The work of a sweep laid out in its run folder, for whoever can see that folder to take and to answer."""

import json
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from attn_lab.bench.case import Case
from attn_lab.config.build import packed, unpacked
from attn_lab.records.record import Record
from attn_lab.records.store import RunStore


class Order(NamedTuple):
    """What holds for all cases of a sweep."""

    sweep: str
    command: str
    device: str
    limits: Mapping[str, Any]  # the settings of the jsonl logger


class Board:
    """A folder in the run folder: batches that wait, batches that somebody took, and who is at what.

    A batch is a file, taken by renaming it: of two who try, one succeeds, on a network's file system too.
    """

    def __init__(self, path: Path):
        self.path = path.absolute()
        self.run = self.path.parents[1]

    @classmethod
    def laid(cls, run: Path, order: Order, batches: Sequence[Sequence[Case]]) -> "Board":
        board = cls(run / ".boards" / order.sweep)
        board.path.mkdir(parents=True)
        for number, batch in enumerate(batches):
            (board.path / f"{number:05}.todo").write_bytes(pickle.dumps([packed(case) for case in batch]))
        (board.path / "order").write_text(json.dumps(order))
        return board

    @property
    def order(self) -> Order:
        return Order(*json.loads((self.path / "order").read_text()))

    def take(self, who: str) -> list[Case]:
        """The next batch, [] if there is none."""
        for file in sorted(self.path.glob("*.todo")):
            mine = file.with_suffix(f".{who}")
            with suppress(FileNotFoundError):  # another was quicker
                return [unpacked(plain) for plain in pickle.loads(file.rename(mine).read_bytes())]
        return []

    def give_back(self, who: str) -> None:
        """What `who` took last may be taken by another."""
        last = max(self.path.glob(f"[0-9]*.{who}"))
        last.rename(last.with_suffix(".todo"))

    def shard(self, who: str) -> RunStore:
        """Where `who` keeps its records: a file that nobody else writes to."""
        return RunStore(self.run, **self.order.limits).shard(f"{self.path.name}.{who}")

    def answers(self, read: dict[Path, int]) -> Iterator[tuple[str, Record]]:
        """Who has answered what since; `read` is how far each shard was read, and is carried on."""
        return RunStore(self.run).follow_shards(self.path.name, read)

    def note(self, who: str, case: Case, probe: str) -> None:
        part = self.path / f".{who}"
        part.write_text(json.dumps([case.id, probe]))
        part.replace(self.path / f"at.{who}")

    def notes(self) -> Iterator[tuple[str, str, str]]:
        """Who is at which case (its id), in which probe."""
        for file in sorted(self.path.glob("at.*")):
            yield file.name.removeprefix("at."), *json.loads(file.read_text())

    def tell(self, who: str, line: str) -> None:
        """Have a person told."""
        part = self.path / f".{who}"
        part.write_text(line)
        part.replace(self.path / f"told.{who}")

    def told(self) -> Iterator[str]:
        """What was to be told since."""
        for file in sorted(self.path.glob("told.*")):
            yield f"{file.name.removeprefix('told.')}: {file.read_text()}"
            file.unlink()

    def stop(self) -> None:
        """No case is to be begun any more."""
        (self.path / "stop").touch()

    @property
    def stopped(self) -> bool:
        return not self.path.exists() or (self.path / "stop").exists()

    def clear(self) -> None:
        """All answers were taken over: leave nothing."""
        RunStore(self.run).drop_shards(self.path.name)
        shutil.rmtree(self.path, ignore_errors=True)  # a hand that was told to end may yet write
        with suppress(OSError):  # others' are in it
            os.rmdir(self.path.parent)
