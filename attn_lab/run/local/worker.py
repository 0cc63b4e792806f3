"""One worker process, as its sweep sees it: what it is at, since when, what it said, and how it ended."""

import os
import signal
import time
from contextlib import suppress
from multiprocessing import connection
from typing import Any

from attn_lab.bench.case import Case
from attn_lab.config.build import packed
from attn_lab.core.machine import Machine
from attn_lab.records.record import Measurement, Provenance, Record, Status
from attn_lab.run.local.fork_server import CONTEXT
from attn_lab.run.local.worker_main import serve

TAIL = 2000  # bytes of what a worker printed that are kept for its obituary
PATIENCE = 30  # seconds for a killed one to be gone; a driver that has hung may hold it for good
GRACE, PAUSE = 2.0, 0.2  # seconds in which one that is to be killed may say where it is; of silence, when it has


class Worker:
    """A process that examines one case after another on `machine`; `gpu` is how CUDA_VISIBLE_DEVICES names that."""

    def __init__(self, label: str, machine: Machine, gpu: str | None = None):
        self.label, self.machine, self._gpu = label, machine, gpu
        self.case: Case | None = None
        self.probe = ""
        self._start()

    def give(self, case: Case, provenance: Provenance) -> None:
        """Have it examine a case.  One that has died in its idleness is replaced first."""
        if not self._process.is_alive():
            self.end()
            self._start()
        self.case, self.probe, self._provenance = case, "prepare", provenance
        self.begun = time.monotonic()
        self._said = b""
        with suppress(BrokenPipeError):  # it died this moment, which is seen where its end is waited for
            self._pipe.send((packed(case), provenance))

    @property
    def sources(self) -> list[Any]:
        """What `multiprocessing.connection.wait` is to wait for."""
        return [self._pipe, self._told, self._process.sentinel]

    @property
    def remaining(self) -> float:
        """Seconds until its case has taken too long."""
        assert self.case is not None
        return self.case.timeout - (time.monotonic() - self.begun)

    def look(self) -> Record | None:
        """Take in what has come.  The record of its case, once there is one, whatever became of it; then it is idle."""
        assert self.case is not None
        self._listen()
        alive = self._process.is_alive()  # asked before the pipe is emptied: what it sent before its end counts
        if not alive:
            self.end()
        record = self._received()
        if record is None and not alive:
            why = f"its process {_fate(self._process.exitcode)} in {self.probe}"
            record = self._obituary(self.case, "crashed", why)
        if record is None and self.remaining <= 0:
            record = self._overdue(self.case)
        if record is not None:
            self.case = None
        return record

    def end(self) -> None:
        """Kill it and all it has started, at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        self._process.kill()  # before it could make a group of its own
        self._process.join(PATIENCE)
        self._listen()

    def close(self) -> None:
        """Let it go, idle or not."""
        self.end()
        for end in (self._pipe, self._told, self._lifeline):
            end.close()

    def _start(self) -> None:
        self._pipe, pipe = CONTEXT.Pipe()
        self._told, told = CONTEXT.Pipe(duplex=False)
        self._lifeline, lifeline = CONTEXT.Pipe()  # theirs ends with ours, that is, with this process
        os.set_blocking(self._told.fileno(), False)
        self._process = CONTEXT.Process(target=serve, args=(pipe, told, lifeline, self._gpu))
        self._process.start()
        self._said = b""
        for end in (pipe, told, lifeline):
            end.close()

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            while chunk := os.read(self._told.fileno(), 65536):
                self._said = (self._said + chunk)[-TAIL:]

    def _received(self) -> Record | None:
        with suppress(EOFError, OSError):
            while self._pipe.poll():
                word = self._pipe.recv()
                if isinstance(word, Record):
                    return word
                self.probe = word
        return None

    def _overdue(self, case: Case) -> Record:
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGUSR1)  # type: ignore[arg-type]
            for patience in (GRACE, *10 * [PAUSE]):  # it says so in pieces
                if not connection.wait([self._told], patience):
                    break
                self._listen()
        self.end()
        return self._obituary(case, "timeout", f"still in {self.probe} after {case.timeout:g} s (measure.timeout)")

    def _obituary(self, case: Case, status: Status, why: str) -> Record:
        took = Measurement(name="harness/case", value=time.monotonic() - self.begun, unit="s")
        last = self._said.decode(errors="replace").strip()
        return Record(
            case=case.as_json(), status=status, reasons=[why, *([f"it said last: {last}"] if last else [])],
            provenance=self._provenance, metrics={took.name: took.as_json()},
        )  # fmt: skip


def _fate(code: int | None) -> str:
    """`was ended by signal 9 (SIGKILL)`, `ended with exit code 3`."""
    if code is not None and code < 0:
        names = {each.value: f" ({each.name})" for each in signal.Signals}
        return f"was ended by signal {-code}{names.get(-code, '')}"
    return f"ended with exit code {code}"
