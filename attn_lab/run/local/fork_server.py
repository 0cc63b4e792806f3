"""Where processes come from: a fork server that imports torch while the command that wants them does so too."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = (
    "attn_lab.run.local.worker_main"  # and with it torch and all else a case needs; nothing of it may initialise CUDA
)


def warm() -> None:
    """Start the server now.  Once it has imported, which takes as long as importing here, a child takes 20 ms."""
    CONTEXT.set_forkserver_preload([PRELOAD])
    with importable_elsewhere():  # Python < 3.13 does not tell it
        forkserver.ensure_running()


def as_pythonpath() -> str:
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


@contextmanager
def importable_elsewhere() -> Iterator[None]:
    """What is started meanwhile imports what we have imported, wherever that lies."""
    given = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = as_pythonpath()
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if given is not None:
            os.environ["PYTHONPATH"] = given


def asked(question: Callable[[], Any]) -> Any:
    """What `question` answers in a process of its own.  An exception there is raised here."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=_answer, args=(theirs, question), daemon=True)
    child.start()
    theirs.close()
    try:
        answer, error = ours.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"{question.__qualname__}: its process ended with exit code {child.exitcode}") from None
    child.join()
    if error is not None:
        raise error
    return answer


def _answer(pipe: Connection, question: Callable[[], Any]) -> None:
    try:
        answer, error = question(), None
    except Exception as raised:  # noqa: BLE001  handed to whoever asked
        answer, error = None, raised
    pipe.send((answer, error))
