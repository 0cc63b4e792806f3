"""A walk over all that backends declare, by several processes, into findings."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import attn_lab
from attn_lab.certify.grid import HEAD_DIMS, checks, kinds, sizes
from attn_lab.core.backend import Backend, backend_name
from attn_lab.core.certificate import Findings, Kind
from attn_lab.core.machine import Machine
from attn_lab.nn.small_case import stated
from attn_lab.nn.verification import package_versions

SECONDS = 300.0  # that one check may take, its compilation included


@dataclass
class Outcome:
    """What a walk found of one backend.

    findings     kinds that are right, and kinds that are declared and wrong
    unsupported  kinds that its capabilities rule out, with the reasons
    sizes        by name of a size: "" where it is right, "unsupported: …", or what is wrong
    """

    findings: Findings
    unsupported: dict[Kind, list[str]] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)


def walk(
    backends: Sequence[Backend],
    machine: Machine,
    *,
    head_dims: Sequence[int] = HEAD_DIMS,
    workers: int = 1,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Iterator[tuple[Backend, Outcome]]:
    """Verify each backend at every kind it declares, with these head sizes; yields each as soon as it is done.

    Args:
        workers: processes that share the device.
        progress: is given the backend's name, checks done and checks in all.
    """
    by_name = {backend_name(each): each for each in backends}
    tasks: Queue[tuple[str, Kind | None, dict[str, Any]]] = Queue()
    for backend in backends:
        for place, kind in enumerate(kinds(backend, machine, HEAD_DIMS)):
            if kind.head_dim in head_dims:
                every = 1 if backend.needs_dynamo else len(checks(kind))  # each length is compiled for seconds
                for number in range(every):
                    tasks.put((backend_name(backend), kind, {"kind": place, "number": number}))
        for name, _ in sizes(backend, machine):
            tasks.put((backend_name(backend), None, {"size": name}))
    total, replies = tasks.qsize(), defaultdict(list)
    left = Counter(name for name, _, _ in tasks.queue)
    finished: Queue[tuple[str, Kind | None, Any, Any]] = Queue()

    def work() -> None:
        process: subprocess.Popen[str] | None = None
        while True:
            try:
                name, kind, task = tasks.get_nowait()
            except Empty:
                break
            if process is None or process.poll() is not None:
                process = _start(machine)
            reply, process = _ask(process, {"backend": name, **task})
            finished.put((name, kind, task, reply))
        if process is not None:
            process.stdin.close()  # type: ignore[union-attr]
            process.wait()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, total))]
    for thread in threads:
        thread.start()
    for done in range(1, total + 1):
        name, *reply = finished.get()
        replies[name].append(reply)
        left[name] -= 1
        progress(name, done, total)
        if not left[name]:
            yield by_name[name], _outcome(by_name[name], machine, replies[name])
    for thread in threads:
        thread.join()


def _start(machine: Machine) -> subprocess.Popen[str]:
    threads = str(max(1, (os.cpu_count() or 1) // 8))
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": threads}
    path = os.pathsep.join(each for each in sys.path if each)
    return subprocess.Popen(
        [sys.executable, "-m", "attn_lab.certify.worker", machine.device], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        cwd=Path(attn_lab.__file__).parents[1],  # -m puts it first on the path: no file of the user's shadows a module
        env={**environment, "PYTHONPATH": path},
    )  # fmt: skip


def _ask(
    process: subprocess.Popen[str], task: Mapping[str, Any]
) -> tuple[dict[str, Any], subprocess.Popen[str] | None]:
    """A worker's reply, and the worker if it is still to be used."""
    assert process.stdin is not None and process.stdout is not None
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.start()
    try:
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    finally:
        expired = not watchdog.is_alive()
        watchdog.cancel()
    if line:
        return json.loads(line), process
    process.wait()
    took = f"took longer than {SECONDS:.0f} s" if expired else f"ended its process with exit code {process.returncode}"
    return {"raised": took}, None


def _outcome(backend: Backend, machine: Machine, replies: Sequence[Sequence[Any]]) -> Outcome:
    outcome = Outcome(Findings(package_versions(backend, machine)))
    by_kind: dict[Kind, list[dict[str, Any]]] = defaultdict(list)
    for kind, task, reply in replies:
        if kind is None:
            outcome.sizes[task["size"]] = _verdict(reply)
        else:
            by_kind[kind].append(reply)
    verified, incorrect = set(), {}
    for walked, several in sorted(by_kind.items()):
        kind = walked
        supported = [each for each in several if "unsupported" not in each]
        if not supported:
            outcome.unsupported[kind] = several[0]["unsupported"]
            continue
        forward = replace(kind, gradients=False)
        if reasons := next((each["forward_only"] for each in supported if "forward_only" in each), None):
            outcome.unsupported[kind] = reasons
            kind = forward
        if wrong := [_verdict(each) for each in supported if _verdict(each)]:
            incorrect[kind] = wrong[0]
            outputs = [each.get("errors", {}).get("out") for each in supported]
            if any(out is None or not out[0] <= out[1] for out in outputs):
                incorrect[forward] = wrong[0]
            else:
                verified.add(forward)
        else:
            verified |= {kind, forward}
    outcome.findings = replace(outcome.findings, verified=frozenset(verified), incorrect=incorrect)
    return outcome


def _verdict(reply: Mapping[str, Any]) -> str:
    if "unsupported" in reply:
        return f"unsupported: {'; '.join(reply['unsupported'])}"
    return str(reply["raised"]) if "raised" in reply else stated(reply["errors"])
