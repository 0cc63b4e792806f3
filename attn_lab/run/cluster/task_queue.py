"""The work of a sweep in its run folder, for remote workers that see that folder to claim and to answer."""

import glob
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attn_lab.config.build import packed, unpacked
from attn_lab.config.trusted import check_targets
from attn_lab.core.errors import BadRequest
from attn_lab.measure.case import Case
from attn_lab.records.reading import open_regular
from attn_lab.records.record import Record
from attn_lab.records.store import RunStore
from attn_lab.run.plan import SweepSpec

FOLDER = ".queues"


class TaskQueue:
    """A folder in the run folder: batches that wait, batches that were claimed, and which worker is at which case.

    A batch is a file of JSON, claimed by renaming it: of two that try, one succeeds, on a network's file system too.
    The folder may be shared: of what a file names, parts of attn_lab's configuration and `own` callables are built.
    """

    def __init__(self, path: Path, own: Sequence[str] = ()):
        self.path, self._own = path.absolute(), tuple(own)
        self.run = self.path.parents[1]

    @classmethod
    def create(cls, run: Path, spec: SweepSpec, batches: Sequence[Sequence[Case]]) -> "TaskQueue":
        queue = cls(run / FOLDER / spec.sweep)
        queue.path.mkdir(parents=True)
        for number, batch in enumerate(batches):
            try:
                text = json.dumps([packed(case) for case in batch])
            except (TypeError, ValueError) as error:
                raise BadRequest(f"{batch[0].label}: expected settings that JSON can hold; {error}") from None
            (queue.path / f"{number:05}.todo").write_text(text, encoding="utf-8")
        (queue.path / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        return queue

    @property
    def spec(self) -> SweepSpec:
        spec = SweepSpec(*self._read(self.path / "spec.json"))
        if spec.sweep != self.path.name:
            raise BadRequest(f"{self.path}: expected the queue of {self.path.name}; got that of {spec.sweep!r}")
        return spec

    def claim(self, worker: str) -> list[Case]:
        """The next batch, [] if there is none."""
        for file in sorted(self.path.glob("*.todo")):
            mine = file.with_suffix(f".{worker}")
            with suppress(FileNotFoundError):  # another was quicker
                batch = self._read(file.rename(mine))
                check_targets(batch, own=self._own, source=file.name)
                return [unpacked(plain) for plain in batch]
        return []

    def _read(self, file: Path) -> Any:
        """The plain values of a file.  Raises FileNotFoundError, and BadRequest for what is no file of a queue."""
        try:
            with open_regular(file) as content:
                return json.loads(content.read())
        except FileNotFoundError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise BadRequest(f"{file}: expected a file that the sweep wrote; got {error}") from None

    def give_back(self, worker: str) -> None:
        """The batch that `worker` claimed last may be claimed by another."""
        last = max(self.path.glob(f"[0-9]*.{glob.escape(worker)}"))
        last.rename(last.with_suffix(".todo"))

    def shard(self, worker: str) -> RunStore:
        """The store of one worker's records: a file that no other writes to."""
        return RunStore(self.run, **self.spec.limits).shard(f"{self.path.name}.{worker}")

    def answers(self, read: dict[Path, int]) -> Iterator[tuple[str, Record]]:
        """(worker, record) of what is new; `read` is how far each shard was read, and is carried on."""
        return RunStore(self.run).follow_shards(self.path.name, read)

    def heartbeat(self, worker: str, case: Case, probe: str) -> None:
        """Note the case and probe that `worker` is at."""
        self._replace(f"at.{worker}", json.dumps([case.id, probe]))

    def heartbeats(self) -> Iterator[tuple[str, str, str]]:
        """(worker, the id of its case, its probe)."""
        for file in sorted(self.path.glob("at.*")):
            with suppress(BadRequest, FileNotFoundError):
                case, probe = self._read(file)
                yield file.name.removeprefix("at."), str(case), str(probe)

    def notify(self, worker: str, line: str) -> None:
        """Queue a line for the user."""
        self._replace(f"notice.{worker}", line)

    def notices(self) -> Iterator[str]:
        """Lines for the user that are new."""
        for file in sorted(self.path.glob("notice.*")):
            with open_regular(file) as content:
                yield f"{file.name.removeprefix('notice.')}: {content.read(1000).decode(errors='replace')}"
            file.unlink()

    def stop(self) -> None:
        """Begin no case any more."""
        (self.path / "stop").touch()

    @property
    def stopped(self) -> bool:
        return not self.path.exists() or (self.path / "stop").exists()

    def clear(self) -> None:
        """Leave nothing: all answers were merged."""
        RunStore(self.run).drop_shards(self.path.name)
        shutil.rmtree(self.path, ignore_errors=True)  # a worker that was stopped may yet write
        with suppress(OSError):  # others' are in it
            os.rmdir(self.path.parent)

    def _replace(self, name: str, text: str) -> None:
        part = self.path / f".{name}"
        part.write_text(text, encoding="utf-8")
        part.replace(self.path / name)
