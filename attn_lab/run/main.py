"""The entry functions of a sweep: what the command line starts, light to import until it does."""

import gc
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attn_lab.run.interrupt import Interrupt

if TYPE_CHECKING:
    from attn_lab.run.plan import Plan

WITHOUT_WORKERS = {"--help", "-h", "hydra/launcher=basic", "hydra/launcher=ray", "hydra/launcher=slurm"}


def run_sweep(argv: Sequence[str]) -> int:
    """Plan the cases that `argv` asks for, run those that are not done, store their records, and sum up.

    Returns the exit code: 0, 1 (a case failed, or is missing), 130 (Ctrl-C).  Raises BadRequest for what cannot be
    composed, planned or stored.
    """
    _open_standard_streams()
    if not WITHOUT_WORKERS & {*argv}:  # a guess, for speed alone
        from attn_lab.run.local import fork_server

        fork_server.start()  # before the imports, to import at the same time
    with _imported(), _interruptible() as interrupt:
        from attn_lab.run.sweep import run

        return run(argv, interrupt)


def plan_sweep(argv: Sequence[str]) -> "Plan | None":
    """The plan of what `argv` asks for; nothing is run or written.  None where Hydra answered a flag of its own.

    Raises BadRequest, and KeyboardInterrupt.
    """
    _open_standard_streams()
    with _imported(), _interruptible() as interrupt:
        from attn_lab.run.sweep import planned

        return planned(argv, interrupt)


@contextmanager
def _imported() -> Iterator[None]:
    """Import all that a sweep needs, with the garbage collector off: it takes a fifth of that time, and finds none."""
    gc.disable()
    try:
        import attn_lab.run.sweep  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
    yield


@contextmanager
def _interruptible() -> Iterator[Interrupt]:
    interrupt = Interrupt()
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupt
    finally:  # once interrupted, all is printed, and another must not upset the interpreter's own end
        signal.signal(signal.SIGINT, signal.SIG_IGN if interrupt.requested else before)


def _open_standard_streams() -> None:
    """Open /dev/null for descriptors 0 to 2 where closed: a pipe with such a number is mistaken for a stream."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number that is free
