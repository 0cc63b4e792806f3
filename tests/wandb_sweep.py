"""Sweeps for the tests of W&B: records, a process that logs them, and W&B's own logs read back."""

import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_lab.records.record import Measurement, Provenance, Record

ROOT = Path(__file__).parents[1]
SHAPE: dict[str, Any] = {"batch_size": 16, "seq_len": 1024, "num_heads": 32, "emb_dim": 2048}
SHAPE |= {"num_kv_heads": 32, "seq_len_kv": 1024, "head_dim": 64, "dtype": "float16"}

TRYING = {"MAX": "1", "WAIT_MIN_SECONDS": "0.1", "WAIT_MAX_SECONDS": "0.1"}  # W&B waits for seconds, and tries again
HASTY = {f"WANDB__{what}_RETRY_{key}": value for key, value in TRYING.items()
         for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")}  # fmt: skip


def records() -> list[Record]:
    """One of each kind: measured, measured otherwise, not finite, refused, failed."""
    time_ms = Measurement(name="forward/time", value=0.3051, unit="ms", low=0.303, high=0.31, samples=200)
    peak = Measurement(name="memory/peak", value=677.0, unit="MB")
    kernels = Measurement(name="kernel_check/kernels", value=1, unit="", note="flash::flash_fwd → “q”")
    endless = Measurement(name="accuracy/dq", value=float("inf"), unit="", low=float("nan"))
    again = Measurement(name="backward/time", value=1e-9, unit="ms", low=0.0, high=2.5e10, samples=3)
    return [
        record(0, "flash2", "ok", [], time_ms, peak, kernels),
        record(1, "flex", "ok", [], peak, again, shape={"num_kv_heads": 8, "dtype": "bfloat16"}, round_=1),
        record(2, "naive", "incorrect", ["dq: error 3.2 times the allowed", "out: not finite"], endless),
        record(3, "flash3", "unsupported", ["backward: ≥ 1 kernel is needed, got 0"]),
        record(4, "sdpa_math", "oom", ["CUDA out of memory\nTried to allocate 2 GiB"]),
    ]


def swept() -> list[Record]:
    """Three backends over seq_len, two rounds: naive timed again, and too large in the end; flash2 noisy at 512."""
    made = []
    for round_ in range(2):
        for place, seq_len in enumerate((256, 512, 1024)):
            shape = {"seq_len": seq_len, "seq_len_kv": seq_len}
            for number, name in enumerate(("naive", "naive (again)", "flash2", "flash3")):
                each = (100 * round_ + 10 * place + number, name.partition(" ")[0])
                took = 0.1 * seq_len * (1 + number) + 0.001 * round_
                note = "noisy: 4 % wide" if (name, seq_len) == ("flash2", 512) else ""
                metrics = [
                    Measurement(
                        name="forward/time", value=took, unit="ms", low=took - 0.01, high=took + 0.01, note=note
                    ),
                    Measurement(name="forward/tflops", value=1000 / took, unit="TFLOP/s"),
                    Measurement(name="memory/peak", value=seq_len / 7, unit="MB"),
                    Measurement(name="accuracy/out", value=0.5 + 0.1 * round_, unit="of allowed"),
                ]
                status, reasons = "ok", []
                if name == "flash3":
                    status, reasons, metrics = "unsupported", ["needs compute capability 9.0"], []
                elif name.startswith("naive") and seq_len == 1024:
                    status, reasons, metrics = "oom", ["out of memory"], metrics[3:]
                is_aa_repeat = {"is_aa_repeat": True} if "again" in name else {}
                made.append(record(*each, status, reasons, *metrics, shape=shape, round_=round_, **is_aa_repeat))
    return made


def record(
    number: int,
    backend: str,
    status: Any,
    reasons: list[str],
    *metrics: Measurement,
    shape: dict[str, Any] | None = None,
    round_: int = 0,
    **more: Any,
) -> Record:
    shape = SHAPE | (shape or {})
    config = {"backend": {"_target_": f"attn_lab.{backend}", "window": [64, None]}, "shape": shape, "seed": number}
    case = {"id": f"{number:08x}", "backend": backend, "mask": "causal", "subject": "kernel", "round": round_}
    return Record(
        case={**case, "shape": shape, **more},
        status=status,
        reasons=reasons,
        metrics={metric.name: metric.as_json() for metric in metrics},
        provenance=Provenance(
            machine={"device": "cuda", "name": "NVIDIA H100 80GB HBM3", "capability": [9, 0], "memory_gib": 79.1},
            versions={"torch": "2.11.0", "python": "3.11.7"},
            commit="1a47a66",
            dirty=True,
            config=config,
            started="2026-11-22T08:21:05Z",
            sweep="a sweep",
            command="attn-lab backend=flash2",
        ),
    )


# What a sweep does with its logger, in a process of its own: driven by lines on stdin, answered by lines on stdout.
DRIVER = """
import json, os, subprocess, sys, time
from pathlib import Path
from attn_lab.records.record import Provenance, Record
from attn_lab.core.errors import BadRequest
from attn_lab.loggers.wandb import server as _wandb_server
from attn_lab.loggers.wandb import logger as room
from attn_lab.loggers.wandb import session as _session

for line in sys.stdin:
    do, arguments = json.loads(line)
    began, said = time.perf_counter(), None
    if do == "tune":
        vars(_wandb_server).update(arguments)
    elif do == "session":
        vars(_session).update(arguments)
    elif do == "ids":
        room.names.run_id = lambda *_: __import__("uuid").uuid4().hex[:8]
    elif do == "limit":
        vars(room).update(arguments)
    elif do == "without":
        sys.modules.update({"wandb": None} if arguments else {})
    elif do == "open":
        try:
            folder, settings = Path(arguments.pop("folder")), {"project": "attn_lab", **arguments}
            logger = room.Wandb(folder=folder, sweep="a sweep", **settings)
            said = logger.where
        except BadRequest as error:
            said = f"BadRequest: {error}"
    elif do == "environment":
        os.environ.update(arguments)
    elif do == "import":
        import wandb
    elif do == "write":
        logger.write(Record(**{**arguments, "provenance": Provenance(**arguments["provenance"])}))
    elif do == "service":
        command = ["pgrep", "-P", str(os.getpid()), arguments or "wandb-core"]
        found = subprocess.run(command, capture_output=True, text=True)
        said = int(found.stdout or 0)
    elif do == "close":
        logger.close()
        said = logger.where
    print(json.dumps([time.perf_counter() - began, said, "wandb" in sys.modules]), flush=True)
"""


@dataclass
class Sweep:
    """A process with nothing of its user's about it: its home is empty, and its working directory."""

    process: subprocess.Popen[str]
    place: Path
    seconds: float = 0.0  # that the last step took
    imported: bool = False

    def __call__(self, do: str, argument: Any = None) -> Any:
        assert self.process.stdin and self.process.stdout
        if do == "write":
            one = argument if isinstance(argument, Record) else records()[argument]
            argument = {key: value for key, value in one.as_json().items() if key != "schema"}
        self.process.stdin.write(json.dumps([do, argument]) + "\n")
        self.process.stdin.flush()
        self.seconds, said, self.imported = json.loads(self.process.stdout.readline())
        return said

    def end(self) -> tuple[float, list[str]]:
        """How long the interpreter took to exit, and all that was said on stderr."""
        began = time.perf_counter()
        _, told = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, told
        return time.perf_counter() - began, told.splitlines()

    def strangers(self) -> list[str]:
        """Whatever lies outside the runs' folder."""
        found = [path for path in self.place.rglob("*") if path.is_file()]
        return [str(path) for path in found if not path.is_relative_to(self.place / "work" / "runs")]


def environment(place: Path, **more: str) -> dict[str, str]:
    theirs = re.compile("WANDB|NETRC|XDG|.*proxy", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not theirs.match(name)}
    clean = {"HOME": str(place / "home"), "TMPDIR": str(place.parent), "PYTHONPATH": str(ROOT)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, **clean, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", **more}


@contextmanager
def sweep(place: Path, **more: str) -> Iterator[Sweep]:
    for name in ("home", "work"):
        (place / name).mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER], cwd=place / "work", env=environment(place, **more), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Sweep(process, place)
    finally:
        process.kill()
        process.communicate()


def read_log(path: Path) -> dict[str, Any]:
    """A run as W&B's transaction log has it: LevelDB's log format after a header of 7 bytes, protobuf within."""
    from wandb.proto.wandb_internal_pb2 import Record as Entry  # type: ignore[attr-defined]

    data, at, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    run: dict[str, Any] = {"summary": {}, "history": [], "over": {}, "folder": path.parent}
    while at < len(data):
        if 32768 - at % 32768 < 7:  # a header does not straddle blocks
            at += 32768 - at % 32768
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole = data[at + 7 : at + 7 + length] if kind in (1, 2) else whole + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (2, 3):
            continue
        entry = Entry.FromString(whole)
        if entry.HasField("run"):
            head = entry.run
            run |= {"name": head.display_name, "group": head.run_group, "job_type": head.job_type}
            run |= {"project": head.project, "config": _items(head.config.update), "id": head.run_id}
            run |= {"entity": head.entity, "notes": head.notes, "tags": [*head.tags], "sweep": head.sweep_id}
        elif entry.HasField("summary"):
            run["summary"] |= _items(entry.summary.update)
        elif entry.HasField("history"):
            run["history"].append(_items(entry.history.item))
            run["summary"] |= run["history"][-1]  # as W&B does when it reads the log
        elif entry.HasField("metric"):
            run["over"][entry.metric.name] = entry.metric.step_metric
        elif entry.HasField("exit"):
            run["exit"] = entry.exit.exit_code
    files = path.parent / "files"
    run["files"] = {str(file.relative_to(files)): file.read_bytes() for file in files.rglob("*") if file.is_file()}
    return run


def _items(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        *path, last = item.nested_key or [item.key]
        place = found
        for key in path:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return found


def offline(folder: Path) -> list[dict[str, Any]]:
    return [read_log(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def lines(of: Iterable[Record] | None = None) -> list[dict[str, Any]]:
    return [json.loads(record.line()) for record in (records() if of is None else of)]
