"""Inside a worker process: cases come in by a pipe; the names of probes, and then a record, go out."""

import faulthandler
import fcntl
import gc
import os
import signal
import sys
from multiprocessing.connection import Connection

import torch

from attn_lab.bench.examine import examine
from attn_lab.config.build import unpacked
from attn_lab.core.machine import detect


def serve(pipe: Connection, told: Connection, lifeline: Connection, gpu: str | None) -> None:
    """Examine what comes until the pipe is closed.  Sees the one GPU of that name, if any.

    All it prints goes to `told`.  A case that leaves CUDA unusable ends the process, and so is seen to have crashed.
    """
    os.setsid()  # Ctrl-C is the sweep's to heed; and the end of this process is to be the end of all it has started
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(lifeline)
    for stream in (1, 2):
        os.dup2(told.fileno(), stream)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, chain=False)  # where it is, for one that has to be killed
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        torch.cuda.init()  # while nobody waits for it yet
    gc.freeze()  # what it was forked with stays shared with the server: collecting would copy it, page by page
    frozen = False
    while True:
        try:
            plain, provenance = pipe.recv()
        except EOFError:
            return
        case = unpacked(plain)
        machine = detect(case.config["device"])
        record = examine(case, machine, provenance, pipe.send)
        for reason in record.reasons:
            print(reason, file=sys.stderr, flush=True)  # the last words, should the next line be the end
        if machine.device == "cuda":
            torch.cuda.synchronize()
        pipe.send(record)
        if not frozen:
            gc.freeze()  # what the first case has loaded stays: a collection after each then takes ms, not 0.2 s
            frozen = True


def _die_with(lifeline: Connection) -> None:
    """Be killed when the process at the other end goes, be it in the middle of a kernel that never ends."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
