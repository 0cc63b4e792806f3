"""A sweep whose cases are examined by hands elsewhere: the work is laid out, hands are asked for, answers followed."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attn_lab.bench.case import Case
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine
from attn_lab.records.record import Record
from attn_lab.run.cluster.backend import Engine, Job
from attn_lab.run.cluster.task_queue import Board, Order
from attn_lab.run.progress import View

POLL = 0.3  # seconds between two looks into the run folder
FAREWELL = 10  # … in which hands that find nothing left may end, before they are told to
SILENCE, AGAIN = 10.0, 60.0  # … after which it is said what is waited for; and between saying so again


class Vigil:
    """Tells a person what is waited for while there is nothing else to tell."""

    def __init__(self, engine: Engine, device: str, say: Callable[[str], None]):
        self._engine, self._device, self._say = engine, device, say
        self.rest()

    def rest(self) -> None:
        """There is something to tell."""
        self._due = time.monotonic() + SILENCE

    def keep(self, jobs: Sequence[Job]) -> None:
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + AGAIN
        at = [job.begun() for job in jobs if not job.done()]
        waiting, places = at.count(""), ", ".join(sorted(filter(None, at)))
        if places:
            self._say(f"starting on {places}" + f"; {waiting} more to come" * bool(waiting))
        elif waiting:
            self._say(f"waiting for {self._engine.wanting(self._device)}")


def machines(
    engine: Engine, device: str, *, say: Callable[[str], None], heed: Callable[[], None]
) -> tuple[Machine, ...]:
    """As many of the cluster's machines as there may be hands.  All are like the one that is looked at.

    `heed` is called while waiting, and may raise.
    """
    job, vigil = engine.start(["look", device], device), Vigil(engine, device, say)
    try:
        while not job.done():
            vigil.keep([job])
            heed()
            time.sleep(POLL)
        seen = json.loads(job.result())
    except RuntimeError as error:
        raise BadRequest(f"device={device}: expected a machine of the cluster that has it; got {error}") from None
    except KeyboardInterrupt:
        job.cancel()
        raise
    if seen["capability"]:
        seen["capability"] = tuple(seen["capability"])
    return (Machine(**seen),) * engine.count(device)


def follow(
    engine: Engine,
    count: int,
    run: Path,
    order: Order,
    batches: Sequence[Sequence[Case]],
    *,
    keep: Callable[[str, Case, Record], None],
    stopping: Callable[[], bool],
    say: Callable[[str], None],
    view: View,
) -> None:
    """Have every case examined by `count` hands; `say` is given a line on each that fails.

    A hand that dies leaves the rest of its batch undone.  Once `stopping` is true, no more cases are begun.
    """
    left = {case.id: case for batch in batches for case in batch}
    board, jobs, over = Board.laid(run, order, batches), list[Job](), set[Job]()
    read: dict[Path, int] = {}
    vigil = Vigil(engine, order.device, say)

    def told() -> None:
        for line in board.told():
            say(line)
        for job in [job for job in jobs if job not in over and job.done()]:
            over.add(job)
            if trouble := _trouble(job):
                say(f"a hand failed: {trouble}")

    try:
        jobs += (engine.start(["serve", str(board.path)], order.device) for _ in range(min(count, len(batches))))
        going = True
        while going:
            going = not all(job.done() for job in jobs)  # asked before the answers: what came before the end counts
            for who, record in board.answers(read):
                keep(who, left.pop(record.case["id"]), record)
            busy = {who: (left[case], probe) for who, case, probe in board.notes() if case in left}
            for who, (case, probe) in busy.items():
                view.at(who, case, probe)
            told()
            at_work = any(job.begun() for job in jobs if job not in over)
            if busy and at_work:
                vigil.rest()
            else:
                vigil.keep(jobs)
            if stopping():
                board.stop()
            # Hands still waiting for a machine are let go.
            going = going and bool(busy and at_work if stopping() else left)
            if going:
                time.sleep(POLL)
        begun, until = len(list(board.notes())), time.monotonic() + FAREWELL
        while sum(job.done() for job in jobs) < begun and time.monotonic() < until:
            time.sleep(POLL)  # they end by themselves
        told()
    finally:
        board.stop()
        for job in jobs:
            if not job.done():
                job.cancel()
    board.clear()


def _trouble(job: Job) -> str:
    try:
        job.result()
    except RuntimeError as error:
        return str(error)
    return ""
