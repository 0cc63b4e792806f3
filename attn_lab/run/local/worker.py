"""One worker process, as its sweep sees it: its case, since when, what it printed, and how it ended."""

import os
import signal
import time
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from attn_lab.config.build import packed
from attn_lab.core.machine import Machine
from attn_lab.measure.case import Case
from attn_lab.records.artifacts import File, scratch
from attn_lab.records.record import Measurement, Provenance, Record, Status
from attn_lab.run.local.fork_server import CONTEXT, start_process, wake
from attn_lab.run.local.messages import Garbage, Probing, Receiver
from attn_lab.run.local.worker_main import serve

TAIL = 2000  # bytes of what a worker printed last that are put on record when it dies
PATIENCE = 30  # seconds for a killed one to be gone; a driver that has hung may hold it for good
LOST = 255  # the exit code a process has whose fork server is gone
GRACE, PAUSE = 2.0, 0.2  # seconds in which one that is to be killed may say where it is; of silence, when it has


class Worker:
    """A process that runs one case after another on `machine`; `gpu` is how CUDA_VISIBLE_DEVICES names that."""

    def __init__(self, label: str, machine: Machine, gpu: str | None = None):
        self.label, self.machine, self._gpu = label, machine, gpu
        self.case: Case | None = None
        self.probe = ""
        self._process = self._start()

    def submit(self, case: Case, provenance: Provenance) -> None:
        """Have it run a case.  A process that has died since the last is replaced first."""
        if not self._process.is_alive():
            self.close()
            self._process = self._start()
        self.case, self.probe, self._provenance = case, "prepare", provenance
        self.begun = time.monotonic()
        self._printed = b""
        with suppress(BrokenPipeError):  # it died this moment, which is seen where its end is waited for
            self._requests.send((packed(case), provenance))

    @property
    def sources(self) -> list[Any]:
        """What `multiprocessing.connection.wait` is to wait for."""
        return [self._answers, self._output, self._process.sentinel]

    @property
    def remaining(self) -> float:
        """Seconds until its case has taken too long."""
        assert self.case is not None
        return self.case.timeout - (time.monotonic() - self.begun)

    def poll(self) -> Record | None:
        """Take in what has come.  The record of its case, once there is one, whatever its status; then it is idle."""
        assert self.case is not None
        self._listen()
        alive = self._process.is_alive()  # before the pipe is emptied: what it sent before its end counts
        fate = "" if alive else self._fate()
        if not alive:
            self.end()
        try:
            record = self._received(self.case)
        except Garbage as error:
            self.end()
            record = self._crash_record(self.case, "crashed", f"its process sent no message in {self.probe}: {error}")
        if record is None and not alive:
            record = self._crash_record(self.case, "crashed", f"its process {fate} in {self.probe}")
        elif record is None and self._receiver.ended:  # a stopped fork server does not say that it has ended
            wake()
            self._process.join(GRACE)
            fate = "closed its pipe" if self._process.is_alive() else self._fate()
            self.end()
            record = self._crash_record(self.case, "crashed", f"its process {fate} in {self.probe}")
        if record is None and self.remaining <= 0:
            record = self._overdue(self.case)
        if record is not None:
            self.case = None
        return record

    def end(self) -> None:
        """Kill it and all it has started, at once."""
        if self._process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)  # before it could make a group of its own
            wake()
            self._process.join(PATIENCE)
        self._listen()

    def close(self) -> None:
        """End it, idle or not."""
        self.end()
        for end in (self._requests, self._answers, self._output, self._lifeline):
            end.close()

    def _start(self) -> BaseProcess:
        requests, self._requests = CONTEXT.Pipe(duplex=False)
        self._answers, answers = CONTEXT.Pipe(duplex=False)
        self._output, output = CONTEXT.Pipe(duplex=False)
        self._lifeline, lifeline = CONTEXT.Pipe()  # theirs ends with ours, that is, with this process
        os.set_blocking(self._output.fileno(), False)
        self._receiver = Receiver(self._answers.fileno())
        self._printed = b""
        process = CONTEXT.Process(target=serve, args=(requests, answers, output, lifeline, self._gpu))
        try:
            start_process(process)
        finally:
            for end in (requests, answers, output, lifeline):
                end.close()
        return process

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            while chunk := os.read(self._output.fileno(), 65536):
                self._printed = (self._printed + chunk)[-TAIL:]

    def _received(self, case: Case) -> Record | None:
        """The record of its case, if that has come.  Raises Garbage."""
        for message in self._receiver.messages():
            if isinstance(message, Probing):
                self.probe = message.probe
                continue
            place = scratch(self._provenance["sweep"]) / case.id
            files = [File(kind, Path(path)) for kind, path in message.files]
            if strange := [file.path for file in files if file.path != place / file.path.name]:
                raise Garbage(f"expected files in {place}; got {strange[0]}")
            return Record(case=case.as_json(), status=message.status, reasons=message.reasons, metrics=message.metrics,
                          series=message.series, files=files, provenance=self._provenance)  # fmt: skip
        return None

    def _overdue(self, case: Case) -> Record:
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGUSR1)  # type: ignore[arg-type]
            for patience in (GRACE, *10 * [PAUSE]):  # it says so in pieces
                if not connection.wait([self._output], patience):
                    break
                self._listen()
        self.end()
        return self._crash_record(case, "timeout", f"still in {self.probe} after {case.timeout:g} s (measure.timeout)")

    def _crash_record(self, case: Case, status: Status, why: str) -> Record:
        took = Measurement(name="case/seconds", value=time.monotonic() - self.begun, unit="s")
        last = self._printed.decode(errors="replace").strip()
        return Record(
            case=case.as_json(), status=status, reasons=[why, *([f"it said last: {last}"] if last else [])],
            provenance=self._provenance, metrics={took.name: took.as_json()},
        )  # fmt: skip

    def _fate(self) -> str:
        """`was ended by signal 9 (SIGKILL)`, `ended with exit code 3`; of a process that has ended."""
        code = self._process.exitcode
        if code == LOST and _is_running(self._process.pid):
            return "was lost: the fork server it came from was killed"
        if code is not None and code < 0:
            names = {each.value: f" ({each.name})" for each in signal.Signals}
            return f"was ended by signal {-code}{names.get(-code, '')}"
        return f"ended with exit code {code}"


def _is_running(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return bool(pid)
