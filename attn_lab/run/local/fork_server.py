"""Where processes come from: a fork server that imports torch while the command that wants them does so too."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from time import sleep
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = "attn_lab.run.local.worker_main"  # and with it torch and all a case needs; none of it may initialise CUDA
PATIENCE = 120  # seconds for a driver to say which GPUs there are


def start() -> None:
    """Start the server now.  Once it has imported, which takes as long as importing here, a child takes 20 ms."""
    CONTEXT.set_forkserver_preload([PRELOAD])
    with child_environment():  # Python < 3.13 does not pass sys.path on
        forkserver.ensure_running()


def start_process(process: multiprocessing.process.BaseProcess) -> None:
    """Start a process of CONTEXT, with a new server where the old one has ended.

    Raises RuntimeError if none can be had.
    """
    for wait in (0, 0.01, 0.1, 1, 5):  # a killed server refuses connections some time before it is seen to have ended
        sleep(wait)
        try:
            with child_environment(), _kept_awake():
                process.start()
        except (OSError, EOFError) as error:
            trouble = error
        else:
            return
    raise RuntimeError(f"expected the fork server to start a process; got {type(trouble).__name__}: {trouble}")


def wake() -> None:
    """Let a stopped fork server go on: it starts processes, and says how they ended."""
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    with suppress(OSError):
        if server and Path(f"/proc/{server}/stat").read_text().rpartition(") ")[2].startswith("T"):
            os.kill(server, signal.SIGCONT)


@contextmanager
def _kept_awake() -> Iterator[None]:
    """Wake the server while a process of it is waited for, which has no timeout."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1):
            wake()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def import_path() -> str:
    """PYTHONPATH for a child to import what this process would, wherever that lies."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


@contextmanager
def child_environment() -> Iterator[None]:
    """Processes started meanwhile import from where this one does, and not from the working directory beside that."""
    ours = {"PYTHONPATH": import_path(), "PYTHONSAFEPATH": "1"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run_in_child(question: Callable[[], Any]) -> Any:
    """What `question` returns in a process of its own.  An exception there is raised here."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=_answer, args=(theirs, question), daemon=True)
    start_process(child)
    theirs.close()
    if not ours.poll(PATIENCE):
        child.kill()
        raise RuntimeError(f"{question.__qualname__}: its process gave no answer in {PATIENCE} s")
    try:
        answer, error = ours.recv()
    except EOFError:
        child.join(1)
        raise RuntimeError(f"{question.__qualname__}: its process ended with exit code {child.exitcode}") from None
    child.join()
    if error is not None:
        raise error
    return answer


def _answer(pipe: Connection, question: Callable[[], Any]) -> None:
    try:
        answer, error = question(), None
    except Exception as raised:  # noqa: BLE001  raised again in the process that waits
        answer, error = None, raised
    pipe.send((answer, error))
