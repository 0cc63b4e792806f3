"""The engine of a sweep: batches of cases are dealt to worker processes; one that dies or hangs costs its own case."""

from collections.abc import Callable, Sequence
from multiprocessing import connection

from attn_lab.bench.case import Case
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine
from attn_lab.records.record import Provenance, Record
from attn_lab.run.gpu_lock import visible
from attn_lab.run.local.worker import Worker
from attn_lab.run.progress import View

LOOK = 60.0  # seconds between two looks at workers that say nothing; they are heard at once when they do
Batch = Sequence[Case]


def check_count(count: int | None, machines: Sequence[Machine]) -> None:
    most = None if machines[0].device == "cpu" else len(machines)
    if count is not None and (count < 1 or (most and count > most)):
        raise BadRequest(f"hydra.launcher.count: expected {f'1 to {most}, the GPUs here' if most else 'at least 1'}, "
                         f"or null for all; got {count}")  # fmt: skip


def hired(machines: Sequence[Machine], count: int | None) -> list[Worker]:
    """A worker for each of these GPUs, or for the first `count`; on the CPU one, or as many as are asked for."""
    if machines[0].device == "cpu":
        return [Worker(f"CPU {number}" if count else "CPU", machines[0]) for number in range(count or 1)]
    return [Worker(f"GPU {visible(index)}", machine, visible(index)) for index, machine in enumerate(machines[:count])]


def work(
    workers: Sequence[Worker],
    batches: Sequence[Batch],
    *,
    origin: Callable[[Case, Worker], Provenance],
    keep: Callable[[str, Case, Record], None],
    stopping: Callable[[], bool],
    view: View,
) -> None:
    """Have every case examined; `keep` is given each record as it comes, after its worker's label and its case.

    A batch stays with one worker.  Once `stopping` is true, the cases at hand are finished and no more begun.
    """
    queue = [list(batch) for batch in reversed(batches)]
    own: dict[Worker, list[Case]] = {worker: [] for worker in workers}

    def next_for(worker: Worker) -> None:
        if not own[worker] and queue:
            own[worker] = queue.pop()[::-1]
        if own[worker] and not stopping():
            case = own[worker].pop()
            worker.give(case, origin(case, worker))
            view.begin(worker.label, case)

    for worker in workers:
        next_for(worker)
    while busy := [worker for worker in workers if worker.case]:
        patience = min(LOOK, *(worker.remaining for worker in busy))
        connection.wait([source for worker in busy for source in worker.sources], patience)
        for worker in busy:
            case = worker.case
            assert case is not None
            if record := worker.look():
                next_for(worker)  # it is not to wait for what is done with its record
                keep(worker.label, case, record)
            else:
                view.probe(worker.label, worker.probe)
