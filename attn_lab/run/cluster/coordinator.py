"""A sweep whose cases run on remote workers: the queue is created, workers are submitted, their answers followed."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attn_lab.config.trusted import own_targets
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine
from attn_lab.measure.case import Case
from attn_lab.run.cluster.backend import ClusterBackend, Job, cluster_backend
from attn_lab.run.cluster.task_queue import TaskQueue
from attn_lab.run.executor import Event, Finished, Notice, ProbeBegan, Started
from attn_lab.run.interrupt import Interrupt
from attn_lab.run.order import longest_first
from attn_lab.run.plan import Plan

POLL = 0.3  # seconds between two looks into the run folder
FAREWELL = 10  # … in which workers that find nothing left may end, before they are stopped
SILENCE, AGAIN = 10.0, 60.0  # … after which the wait is reported; and between reports


class WaitReporter:
    """Says what is waited for while there is nothing else to say."""

    def __init__(self, backend: ClusterBackend, device: str):
        self._backend, self._device = backend, device
        self.reset()

    def reset(self) -> None:
        """Something else was said."""
        self._due = time.monotonic() + SILENCE

    def lines(self, jobs: Sequence[Job]) -> Iterator[str]:
        """The line that is due, if any."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + AGAIN
        at = [job.begun() for job in jobs if not job.done()]
        waiting, places = at.count(""), ", ".join(sorted(filter(None, at)))
        if places:
            yield f"starting on {places}" + f"; {waiting} more to come" * bool(waiting)
        elif waiting:
            yield f"waiting for {self._backend.pending_reason(self._device)}"


class Coordinator:
    """Runs cases on remote workers of a cluster; a worker that dies leaves the rest of its batch undone."""

    def __init__(self, backend: str, settings: Mapping[str, Any], interrupt: Interrupt):
        self._backend, self._interrupt = cluster_backend(backend, settings), interrupt

    def machines(self, device: str) -> tuple[Machine, ...]:
        """As many of the cluster's machines as there may be workers.  All are like the one that is looked at."""
        job, reporter = self._backend.start(["machine", device], device), WaitReporter(self._backend, device)
        try:
            while not job.done():
                for line in reporter.lines([job]):
                    print(line, flush=True)  # nothing is planned yet
                self._interrupt.raise_if_interrupted()
                time.sleep(POLL)
            seen = json.loads(job.result())
        except RuntimeError as error:
            raise BadRequest(f"device={device}: expected a machine of the cluster that has it; got {error}") from None
        except KeyboardInterrupt:
            job.cancel()
            raise
        if seen["capability"]:
            seen["capability"] = tuple(seen["capability"])
        return (Machine(**seen),) * self._backend.count(device)

    def n_workers(self, plan: Plan) -> int:
        return min(len(plan.sweep.machines), len(plan.batches))

    def run(self, plan: Plan) -> Iterator[Event]:
        device = plan.sweep.spec.device
        queue = TaskQueue.create(plan.sweep.folder, plan.sweep.spec, longest_first(plan.batches))
        jobs = list[Job]()
        own = own_targets(case.config for case in plan.todo)  # they travel by the cluster, not by the shared folder
        try:
            for _ in range(self.n_workers(plan)):
                jobs.append(self._backend.start(["serve", str(queue.path), *own], device))
            yield from self._follow(plan.todo, queue, jobs, WaitReporter(self._backend, device))
        finally:
            queue.stop()
            for job in jobs:
                if not job.done():
                    job.cancel()
        queue.clear()

    def _follow(
        self, cases: Sequence[Case], queue: TaskQueue, jobs: Sequence[Job], reporter: WaitReporter
    ) -> Iterator[Event]:
        left = {case.id: case for case in cases}
        at: dict[str, Case] = {}
        read: dict[Path, int] = {}
        failures = _Failures(jobs)
        going = True
        while going:
            going = not all(job.done() for job in jobs)  # before the answers: what came before the end counts
            for worker, record in queue.answers(read):
                if case := left.pop(record.id, None):
                    yield Finished(worker, case, record)
            busy = {worker: (left[case], probe) for worker, case, probe in queue.heartbeats() if case in left}
            for worker, (case, probe) in busy.items():
                if at.get(worker) is not case:
                    yield Started(worker, case)
                at[worker] = case
                yield ProbeBegan(worker, case, probe)
            yield from map(Notice, (*queue.notices(), *failures.new()))
            running = any(job.begun() for job in jobs if not job.done())
            if busy and running:
                reporter.reset()
            else:
                yield from map(Notice, reporter.lines(jobs))
            if self._interrupt.requested:
                queue.stop()
            # Workers that still wait for a machine are cancelled.
            going = going and bool(busy and running if self._interrupt.requested else left)
            if going:
                time.sleep(POLL)
        begun, until = len(list(queue.heartbeats())), time.monotonic() + FAREWELL
        while sum(job.done() for job in jobs) < begun and time.monotonic() < until:
            time.sleep(POLL)  # they end by themselves
        yield from map(Notice, (*queue.notices(), *failures.new()))


class _Failures:
    """Why jobs failed, each once."""

    def __init__(self, jobs: Sequence[Job]):
        self._open = list(jobs)

    def new(self) -> Iterator[str]:
        for job in [job for job in self._open if job.done()]:
            self._open.remove(job)
            try:
                job.result()
            except RuntimeError as error:
                yield f"a remote worker failed: {error}"
