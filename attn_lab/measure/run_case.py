"""The path of one case: refuse or prepare, stage, probe in order, and make a record of the outcome, whatever it is."""

import ctypes
import gc
import time
from collections.abc import Generator
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from attn_lab.core.backend import select
from attn_lab.core.errors import Incorrect, Unsupported
from attn_lab.core.machine import Machine
from attn_lab.measure.case import Case
from attn_lab.measure.memory_limit import memory_bounded
from attn_lab.records.artifacts import File, scratch
from attn_lab.records.record import Measurement, Provenance, Record, Status

TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own


Found = list[Measurement | File]


def run_case(case: Case, machine: Machine, provenance: Provenance) -> Record:
    """Run one case to its record.  Nothing leaves it but KeyboardInterrupt and its like."""
    steps = case_steps(case, machine, provenance)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@cache
def start_torch(device: str) -> None:
    """One tiny step: what torch loads and starts with the first matrix product and backward of a process.

    Otherwise it would be part of the first call of whichever case comes first, 0.6 to 0.9 s of it on a CPU.
    """
    q, k, v = (torch.ones(1, 1, 8, 8, device=device, requires_grad=True) for _ in range(3))
    out = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
    torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
    if device == "cuda":
        torch.cuda.synchronize()


def case_steps(case: Case, machine: Machine, provenance: Provenance) -> Generator[str, None, Record]:
    """The same, step by step: yields the name of each probe before it begins, and returns the record."""
    found: Found = []
    status, reasons = yield from _outcome(case, machine, found, scratch(provenance["sweep"]) / case.id)
    gc.collect()  # an error's frames and a graph's cycles may still hold tensors
    if TRIM is not None:
        TRIM(0)  # glibc keeps free what shapes of many sizes leave between each other: 15 % over a hundred of them
    if machine.device == "cuda":
        with suppress(RuntimeError):  # a CUDA error that sticks comes again here: its first reason is on record
            torch.cuda.empty_cache()
    metrics = [each for each in found if isinstance(each, Measurement)]
    return Record(
        case=case.as_json(), status=status, reasons=reasons, provenance=provenance,
        metrics={metric.name: metric.as_json() for metric in metrics},
        series={metric.name: metric.series for metric in metrics if metric.series},
        files=[each for each in found if isinstance(each, File)],
    )  # fmt: skip


def _outcome(case: Case, machine: Machine, found: Found, place: Path) -> Generator[str, None, tuple[Status, list[str]]]:
    """Adds what is measured to `found`."""
    begin, probing = time.perf_counter(), 0.0
    try:
        start_torch(machine.device)
        begin = time.perf_counter()
        with memory_bounded(machine):
            if reasons := case.backend.unsupported_reasons(case.request, machine):
                return "unsupported", reasons
            start = time.perf_counter()
            selection = select(case.backend, case.request, machine)
            prepare_seconds = time.perf_counter() - start
            if selection.why:
                rank = 1 + len(selection.passed_over)
                found.append(
                    Measurement(name="selection/rank", value=rank, unit="of those preferred", note=selection.why)
                )
            prepared = case.subject.stage(
                case.request,
                selection.by,
                selection.attend,
                machine,
                seed=case.seed,
                checked_slices=case.checked_slices,
            )
            prepared.prepare_seconds, prepared.scratch = prepare_seconds, place
            for name, probe in case.probes.items():
                yield name
                start = time.perf_counter()
                try:
                    for each in probe.measure(prepared):
                        found.append(each)  # one by one: what comes before a fault is kept
                        if isinstance(each, Measurement):
                            prepared.found[each.name] = each
                finally:
                    took = time.perf_counter() - start
                    probing += took
                    if getattr(probe, "hooks", False):
                        found.append(Measurement(name=f"case/{name}_seconds", value=took, unit="s"))
        return "ok", []
    except Unsupported as refusal:
        return "unsupported", refusal.reasons
    except Incorrect as fault:
        return "incorrect", fault.reasons
    except (Exception, SystemExit) as error:  # noqa: BLE001  the one broad one of the house: a failure becomes data
        return ("oom" if _is_out_of_memory(error) else "error"), [_one_line(error)]
    finally:
        found.append(Measurement(name="case/probe_seconds", value=probing, unit="s"))
        found.append(Measurement(name="case/seconds", value=time.perf_counter() - begin, unit="s"))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def _one_line(error: BaseException) -> str:
    """Type and text of an error; of a long text, its first lines joined."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:500]}"
