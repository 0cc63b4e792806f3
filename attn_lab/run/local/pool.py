"""Batches of cases dealt to worker processes on this host; one that dies or hangs costs its own case."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection

from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine
from attn_lab.measure.case import Case
from attn_lab.records.record import Provenance
from attn_lab.run.executor import Event, Finished, Notice, ProbeBegan, Started
from attn_lab.run.gpu_lock import GpuLocks
from attn_lab.run.interrupt import Interrupt
from attn_lab.run.local.machines import local_machines, visible
from attn_lab.run.local.worker import Worker
from attn_lab.run.order import longest_first
from attn_lab.run.plan import Plan
from attn_lab.run.provenance import provenance_of

POLL = 60.0  # seconds between two looks at workers that say nothing; they are heard at once when they do
Batch = Sequence[Case]


class LocalPool:
    """Worker processes on this host: `count` of them, or None for one a GPU, or one on the CPU."""

    def __init__(self, count: int | None, interrupt: Interrupt):
        self._count, self._interrupt = count, interrupt

    def machines(self, device: str) -> tuple[Machine, ...]:
        found = local_machines(device)
        most = None if found[0].device == "cpu" else len(found)
        if self._count is not None and (self._count < 1 or (most and self._count > most)):
            expected = f"1 to {most}, the GPUs here" if most else "at least 1"
            raise BadRequest(f"hydra.launcher.count: expected {expected}, or null for all; got {self._count}")
        return found

    def n_workers(self, plan: Plan) -> int:
        machines = plan.sweep.machines
        return (self._count or 1) if machines[0].device == "cpu" else len(machines[: self._count])

    def run(self, plan: Plan) -> Iterator[Event]:
        spec, machines = plan.sweep.spec, plan.sweep.machines
        workers = make_workers(machines, self._count)
        locks = GpuLocks([worker.machine.uuid for worker in workers if worker.machine.uuid])
        try:
            for waiting in locks.acquire():
                self._interrupt.raise_if_interrupted()
                if waiting:
                    yield Notice(waiting)
            if len(workers) > 1 and machines[0].device == "cpu":
                yield Notice(f"{len(workers)} workers share this CPU, and disturb each other's times")
            yield from run_pool(
                workers, longest_first(plan.batches) if len(workers) > 1 else plan.batches,
                provenance=lambda case, machine: provenance_of(case, machine, spec.sweep, spec.command),
                stopping=lambda: self._interrupt.requested,
            )  # fmt: skip
        finally:
            for worker in workers:
                worker.close()
            locks.release()


def make_workers(machines: Sequence[Machine], count: int | None) -> list[Worker]:
    """A worker for each of these GPUs, or for the first `count`; on the CPU one, or `count`."""
    if machines[0].device == "cpu":
        return [Worker(f"CPU {number}" if count else "CPU", machines[0]) for number in range(count or 1)]
    return [Worker(f"GPU {visible(index)}", machine, visible(index)) for index, machine in enumerate(machines[:count])]


def run_pool(
    workers: Sequence[Worker],
    batches: Iterable[Batch],
    *,
    provenance: Callable[[Case, Machine], Provenance],
    stopping: Callable[[], bool],
) -> Iterator[Event]:
    """Run every case, each batch on one worker; a batch is taken from `batches` when a worker is free for it.

    Once `stopping` is true, the cases at hand are finished and no more begun.
    """
    coming = iter(batches)
    own: dict[Worker, list[Case]] = {worker: [] for worker in workers}

    def next_for(worker: Worker) -> Iterator[Event]:
        if stopping():
            return
        if not own[worker]:
            own[worker] = list(next(coming, ()))[::-1]
        if own[worker]:
            case = own[worker].pop()
            worker.submit(case, provenance(case, worker.machine))
            yield Started(worker.label, case)

    for worker in workers:
        yield from next_for(worker)
    while busy := [worker for worker in workers if worker.case]:
        patience = max(min(POLL, *(worker.remaining for worker in busy)), 0)
        connection.wait([source for worker in busy for source in worker.sources], patience)
        for worker in busy:
            case, probe = worker.case, worker.probe
            assert case is not None
            if record := worker.poll():
                started: list[Event] = []
                try:
                    started += next_for(worker)  # it does not wait for what is done with its record
                finally:
                    yield Finished(worker.label, case, record)  # which counts, whatever becomes of the next
                yield from started
            elif worker.probe != probe:
                yield ProbeBegan(worker.label, case, worker.probe)
