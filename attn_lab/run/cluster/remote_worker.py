"""A process on any machine that sees the run folder: it claims batches, runs them, and stores their records in a shard.

python -m attn_lab.run.cluster.remote_worker serve QUEUE [OWN…]   until nothing is left; OWN may be built
python -m attn_lab.run.cluster.remote_worker machine DEVICE       prints the machine it is on
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attn_lab.core.machine import Machine
    from attn_lab.measure.case import Case
    from attn_lab.run.cluster.task_queue import TaskQueue


def run_worker(argv: Sequence[str], cwd: str) -> str:
    """Run a remote worker here, and return what it printed.  It ends with this process.

    This is what a cluster is given to run.  Raises RuntimeError if the worker fails.
    """
    host = os.uname().nodename
    if not os.path.isdir(cwd):
        raise RuntimeError(
            f"{host}: expected the command's folder, on a file system that all machines see; got no {cwd}"
        )
    theirs, ours = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __spec__.name, *argv],
            cwd=cwd, stdin=theirs, capture_output=True, text=True,
        )  # fmt: skip
    finally:
        os.close(theirs)
        os.close(ours)
    if done.returncode:
        fate = f"exit code {done.returncode}"
        if done.returncode < 0:
            fate = f"ended by {signal.Signals(-done.returncode).name}"
        raise RuntimeError(f"{host}: {error_line(done.stderr) or 'it notes nothing'} ({fate})")
    return done.stdout


def error_line(output: str) -> str:
    """The line that says what went wrong: the last that names an error, else the last there is, else ""."""
    lines = [line.strip() for line in output.splitlines() if line.strip(" -\n")]
    named = [line for line in lines if re.match(r"attn-lab: |(\w+\.)*\w*(Error|Exception)\b", line)]
    return re.sub("^(attn-lab|RuntimeError): ", "", [*lines[-1:], *named][-1]) if lines else ""


def main(argv: Sequence[str]) -> int:
    from attn_lab.core.errors import BadRequest

    task, argument, *own = argv
    try:
        return _machine(argument) if task == "machine" else _serve(argument, own)
    except (BadRequest, OSError) as error:
        print(f"attn-lab: {error}", file=sys.stderr)
        return 2


def _machine(device: str) -> int:
    import json

    from attn_lab.core.machine import detect

    print(json.dumps(dict(vars(detect(device))), default=dict))
    return 0


def _serve(path: str, own: Sequence[str]) -> int:
    from attn_lab.run.local import fork_server

    fork_server.start()  # before the imports, to import at the same time

    from attn_lab.core.errors import BadRequest
    from attn_lab.run.cluster.task_queue import TaskQueue

    queue = TaskQueue(Path(path), own)
    if not queue.path.is_dir():
        raise BadRequest(f"expected the run folder, on a file system that all machines see; got no {queue.path}")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(KeyboardInterrupt):
        _run(queue)
    return 0


def _run(queue: "TaskQueue") -> None:
    """Run the local pool, with one worker, on batches of the queue."""
    import platform
    import secrets

    from attn_lab.run.executor import Finished, ProbeBegan, Started
    from attn_lab.run.gpu_lock import GpuLocks
    from attn_lab.run.local.machines import local_machines
    from attn_lab.run.local.pool import make_workers, run_pool
    from attn_lab.run.provenance import provenance_of

    spec = queue.spec
    (worker,) = make_workers(local_machines(spec.device)[:1], 1)
    # Containers may share a host's name, and have the same process ids.
    name = f"{platform.node().split('.')[0]}-{secrets.token_hex(3)}-{os.getpid()}"
    locks = GpuLocks([worker.machine.uuid] if worker.machine.uuid else [])
    try:
        for waiting in locks.acquire():
            if queue.stopped:
                return
            if waiting:
                queue.notify(name, waiting)
        with queue.shard(name) as shard:
            for event in run_pool(
                [worker], _claims(queue, name, worker.machine),
                provenance=lambda case, machine: provenance_of(case, machine, spec.sweep, spec.command),
                stopping=lambda: queue.stopped,
            ):  # fmt: skip
                if isinstance(event, Started):
                    queue.heartbeat(name, event.case, "prepare")
                elif isinstance(event, ProbeBegan):
                    queue.heartbeat(name, event.case, event.probe)
                elif isinstance(event, Finished):
                    shard.append(event.record)
    finally:
        worker.close()
        locks.release()


def _claims(queue: "TaskQueue", name: str, machine: "Machine") -> "Iterator[list[Case]]":
    """Batches of the queue, as they are wanted.  Raises BadRequest where an answer here would be another one."""
    from attn_lab.core.errors import BadRequest

    while batch := queue.claim(name):
        if differs := next(filter(None, (_differs(case, machine) for case in batch)), ""):
            queue.give_back(name)
            raise BadRequest(f"the same as where it was planned is expected; got {differs}")
        yield batch


def _differs(case: "Case", machine: "Machine") -> str:
    """What of a case's basis is not so here: another GPU, driver, version or source would answer another question."""
    from attn_lab.config.basis import basis_of

    mine = basis_of(case.backend, (case.subject, case.request.mask, *case.probes.values()), machine)
    return ", ".join(f"{name} {mine.get(name, 'none')} instead of {value}" for name, value in case.basis.items()
                     if mine.get(name) != value)  # fmt: skip


def _end_with_parent() -> None:
    """Interrupt this process when the one that started it has ended: nothing is ever written to this pipe."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
