"""A hand: a process on any machine that sees the run folder; it takes batches, has them examined, keeps its shard.

python -m attn_lab.run.cluster.remote_worker serve BOARD       until nothing is left to take
python -m attn_lab.run.cluster.remote_worker look DEVICE       prints the machine it is on
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attn_lab.bench.case import Case
    from attn_lab.run.cluster.task_queue import Board
    from attn_lab.run.local.worker import Worker


def attend(words: Sequence[str], cwd: str) -> str:
    """Run a hand here, and return what it printed.  It ends with this process.  Raises RuntimeError if it fails.

    This is what a cluster is given to do.
    """
    host = os.uname().nodename
    if not os.path.isdir(cwd):
        raise RuntimeError(
            f"{host}: expected the command's folder, on a file system that all machines see; got no {cwd}"
        )
    theirs, ours = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, *words], cwd=cwd, stdin=theirs, capture_output=True, text=True
        )
    finally:
        os.close(theirs)
        os.close(ours)
    if done.returncode:
        fate = f"exit code {done.returncode}"
        if done.returncode < 0:
            fate = f"ended by {signal.Signals(-done.returncode).name}"
        raise RuntimeError(f"{host}: {told_by(done.stderr) or 'it said nothing'} ({fate})")
    return done.stdout


def told_by(output: str) -> str:
    """The line that says what went wrong: the last that names an error, else the last there is, else ``."""
    lines = [line.strip() for line in output.splitlines() if line.strip(" -\n")]
    named = [line for line in lines if re.match(r"attn-lab: |(\w+\.)*\w*(Error|Exception)\b", line)]
    return re.sub("^(attn-lab|RuntimeError): ", "", [*lines[-1:], *named][-1]) if lines else ""


def main(words: Sequence[str]) -> int:
    from attn_lab.core.errors import BadRequest

    task, what = words
    try:
        return {"look": _look, "serve": _serve}[task](what)
    except (BadRequest, OSError) as error:
        print(f"attn-lab: {error}", file=sys.stderr)
        return 2


def _look(device: str) -> int:
    import json

    from attn_lab.core.machine import detect

    print(json.dumps(dict(vars(detect(device))), default=dict))
    return 0


def _serve(path: str) -> int:
    from attn_lab.run.local.fork_server import warm

    warm()  # before the imports, to import at the same time

    import platform

    from attn_lab.core.errors import BadRequest
    from attn_lab.run.cluster.task_queue import Board
    from attn_lab.run.gpu_lock import held, here
    from attn_lab.run.local.pool import hired

    board = Board(Path(path))
    if not board.path.is_dir():
        raise BadRequest(f"expected the run folder, on a file system that all machines see; got no {board.path}")
    order = board.order
    (worker,) = hired(here(order.device)[:1], 1)
    who = f"{platform.node().split('.')[0]}-{os.getpid()}"
    try:
        with held(list(filter(None, [worker.machine.uuid])), lambda: _heed(board), lambda line: board.tell(who, line)):
            while not board.stopped and (batch := board.take(who)):
                if differs := next(filter(None, (_differs(case, worker) for case in batch)), ""):
                    board.give_back(who)
                    print(f"attn-lab: the same as where it was planned is expected; got {differs}", file=sys.stderr)
                    return 2
                if not _answered(board, who, worker, batch):
                    break
    except KeyboardInterrupt:
        return 0
    finally:
        worker.close()
    return 0


def _answered(board: "Board", who: str, worker: "Worker", batch: "Sequence[Case]") -> bool:
    """Whether all of the batch was examined: it was not if the sweep stops, or is gone."""
    from multiprocessing import connection

    from attn_lab.run.provenance import provenance_of

    order, shard = board.order, board.shard(who)
    try:
        for case in batch:
            if board.stopped:
                return False
            worker.give(case, provenance_of(case, worker.machine, order.sweep, order.command))
            record, at = None, ""
            while record is None:
                if worker.probe != at:
                    board.note(who, case, at := worker.probe)
                if 0 in connection.wait([*worker.sources, 0], max(worker.remaining, 0)):
                    return False  # nobody ever writes there: who attended to this has ended
                record = worker.look()
            shard.append(record)
    finally:
        shard.close()
    return True


def _heed(board: "Board") -> None:
    if board.stopped:
        raise KeyboardInterrupt


def _differs(case: "Case", worker: "Worker") -> str:
    """What of a case's basis is not so here: another GPU, driver, version or source would answer another question."""
    from attn_lab.run.provenance import basis_of

    mine = basis_of(case.who, (case.what, case.request.mask, *case.probes.values()), worker.machine)
    return ", ".join(f"{name} {mine.get(name, 'none')} instead of {value}" for name, value in case.basis.items()
                     if mine.get(name) != value)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
