"""A sweep whose cases are examined by hands elsewhere: the work is laid out, hands are asked for, answers followed."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attn_lab.bench.case import Case
from attn_lab.bench.record import Record
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine
from attn_lab.sweep.board import Board, Order
from attn_lab.sweep.engine import Engine, Job
from attn_lab.sweep.view import View

POLL = 0.3  # seconds between two looks into the run folder
FAREWELL = 10  # … in which hands that find nothing left may end, before they are told to


def machines(engine: Engine, device: str) -> tuple[Machine, ...]:
    """As many of the cluster's machines as there may be hands.  All are like the one that is looked at."""
    job = engine.start(["look", device], device)
    try:
        while not job.done():
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
    view: View,
) -> list[str]:
    """Have every case examined by `count` hands; returns a line on each that failed.

    A hand that dies leaves the rest of its batch undone.  Once `stopping` is true, no more cases are begun.
    """
    left = {case.id: case for batch in batches for case in batch}
    board, jobs = Board.laid(run, order, batches), list[Job]()
    read: dict[Path, int] = {}
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
            if stopping():
                board.stop()
            going = going and bool(busy if stopping() else left)  # hands still waiting for a machine are let go
            if going:
                time.sleep(POLL)
        begun, until = len(list(board.notes())), time.monotonic() + FAREWELL
        while sum(job.done() for job in jobs) < begun and time.monotonic() < until:
            time.sleep(POLL)  # they end by themselves
        trouble = [_trouble(job) for job in jobs if job.done()]
    finally:
        board.stop()
        for job in jobs:
            if not job.done():
                job.cancel()
    board.clear()
    return list(filter(None, trouble))


def _trouble(job: Job) -> str:
    try:
        job.result()
    except RuntimeError as error:
        return str(error)
    return ""
