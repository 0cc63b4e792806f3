"""Inside a worker process: cases come in by one pipe; the names of probes, and then a record, go out by another."""

import faulthandler
import fcntl
import gc
import os
import signal
import sys
from multiprocessing.connection import Connection

import torch
import torch.fx.experimental.symbolic_shapes  # 0.7 s, or the first backward of each worker loads it

from attn_lab.config.basis import source_of
from attn_lab.config.build import unpacked
from attn_lab.core.machine import detect
from attn_lab.measure.case import Case
from attn_lab.measure.run_case import case_steps
from attn_lab.records.record import Measurement, Provenance, Record
from attn_lab.run.local.messages import Answer, Probing, send


def serve(requests: Connection, answers: Connection, output: Connection, lifeline: Connection, gpu: str | None) -> None:
    """Run what comes until `requests` is closed.  Sees the one GPU of that name, if any.

    All it prints goes to `output`.  A case that leaves CUDA unusable ends the process, and so is seen to have crashed.
    """
    os.setsid()  # Ctrl-C is for the sweep to handle; and what this process has started is to end with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(lifeline)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, chain=False)  # where it is, for one that has to be killed
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        torch.cuda.init()  # before a case waits for it
    gc.freeze()  # what it was forked with stays shared with the server: collecting would copy it, page by page
    frozen = False
    while True:
        try:
            plain, provenance = requests.recv()
        except EOFError:
            return
        case = unpacked(plain)
        machine = detect(case.config["device"])
        record = other_source(case, provenance)
        steps = case_steps(case, machine, provenance)
        while record is None:
            try:
                send(answers.fileno(), Probing(next(steps)))
            except StopIteration as end:
                record = end.value
        for reason in record.reasons:
            print(reason, file=sys.stderr, flush=True)  # the last words, should the next line be the end
        if machine.device == "cuda":
            torch.cuda.synchronize()
        send(answers.fileno(), Answer.of(record))
        if not frozen:
            gc.freeze()  # what the first case has loaded stays: a collection after each then takes ms, not 0.2 s
            frozen = True


def other_source(case: Case, provenance: Provenance) -> Record | None:
    """The record of a case that would be measured by other files than its sweep has planned it with."""
    found = source_of(case.backend, (case.subject, case.request.mask, *case.probes.values()))
    if found == case.basis["source"]:
        return None
    why = (f"expected the source that was planned with, {case.basis['source']}; got {found}: files of attn_lab or "
           "of the case's own parts were changed meanwhile (the same command measures them as they are)")  # fmt: skip
    took = Measurement(name="case/seconds", value=0.0, unit="s")
    return Record(case=case.as_json(), status="error", reasons=[why], provenance=provenance,
                  metrics={took.name: took.as_json()})  # fmt: skip


def _die_with(lifeline: Connection) -> None:
    """Be killed when the process at the other end goes, be it in the middle of a kernel that never ends."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
