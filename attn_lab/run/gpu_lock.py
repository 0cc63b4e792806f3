"""The GPUs a sweep may use, known without a CUDA context in this process, and held against other sweeps of the user."""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TextIO

import torch

from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine, cards, detect
from attn_lab.run.local.fork_server import asked

POLL = 0.5  # seconds between two looks at a GPU that somebody else holds


Look = Callable[[str], tuple[Machine, ...]]
_elsewhere: Look | None = None


def look_by(elsewhere: Look | None) -> None:
    """From now on the machines to measure on are what this finds for a device; None: those of this host."""
    global _elsewhere
    _elsewhere = elsewhere
    here.cache_clear()


@cache
def here(device: str) -> tuple[Machine, ...]:
    """The machines to measure on: every GPU this process may see, or the CPU.  `device` is auto, cuda or cpu.

    Raises BadRequest for another word, for cuda where there is none, and for GPUs of several kinds.
    """
    if _elsewhere is not None:
        return _elsewhere(device)
    # A CUDA context here would take memory on the first GPU, and nothing could be forked any more: a child looks.
    found = asked(cards) if device in ("auto", "cuda") and torch.version.cuda is not None else []
    if not found:
        return (detect("cpu" if device == "auto" else device),)
    if len(kinds := dict.fromkeys(machine.name for machine in found)) > 1:
        raise BadRequest(
            f"GPUs: expected one kind in a sweep; got {', '.join(kinds)} (CUDA_VISIBLE_DEVICES=… chooses among them)"
        )
    return tuple(found)


def visible(index: int) -> str:
    """What CUDA_VISIBLE_DEVICES must say for the GPU that is the index-th here to be the only one."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[index].strip() if given else str(index)


@contextmanager
def held(uuids: Sequence[str], heed: Callable[[], None], say: Callable[[str], None]) -> Iterator[None]:
    """These GPUs for us alone, as far as this user's sweeps on this host go: where another holds one, we wait.

    `heed` is called while waiting, and may raise.
    """
    folder = Path(tempfile.gettempdir(), f"attn-lab-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as files:
        for uuid in sorted(uuids):  # in one order for everybody: nobody waits in a ring
            file = files.enter_context(open(folder / f"{uuid}.lock", "a+"))
            _wait_for(file, uuid, heed, say)
        yield


def _wait_for(file: TextIO, uuid: str, heed: Callable[[], None], say: Callable[[str], None]) -> None:
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                file.seek(0)
                say(
                    f"GPU {uuid} is in use by another sweep, process {file.read().strip() or 'unknown'}: waiting for it"
                )
                told = True
            heed()
            time.sleep(POLL)
        else:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return
