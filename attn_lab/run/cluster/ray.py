"""Remote workers on a Ray cluster: each is a task that owns one GPU (on a cluster without, a CPU of a node)."""

import logging
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from attn_lab.core.errors import BadRequest
from attn_lab.run.cluster.remote_worker import error_line, run_worker
from attn_lab.run.local.fork_server import import_path

CONNECT = 10  # seconds in which a cluster must answer
GONE = 10.0  # seconds without an answer after which a head is lost; after 60 Ray ends the process that waits for it
THREADS = "OMP_NUM_THREADS"  # workers have it from where the sweep is started: an answer is for so many threads
UNSET = ""  # passed on instead of nothing, of which Ray makes 1
TOKEN = "the head's ~/.ray/auth_token here, too"


class Head:
    """The cluster's head.  One that is lost is given up at once, or Ray would end this process, its summary unsaid."""

    def __init__(self) -> None:
        self._address = ray.get_runtime_context().gcs_address
        self._heard = self._queried = time.monotonic()
        self._lost = ""

    def lost(self) -> str:
        """Ask it, once a second at most.  Why nothing is to be expected of it any more; else empty."""
        now = time.monotonic()
        if not self._lost and now > self._queried + 1:
            self._queried = now
            try:
                _connect(self._address, timeout=2)
                self._heard = now
            except OSError as error:
                if now > self._heard + GONE:
                    self._lost = f"Ray's head at {self._address} is gone ({error})"
                    ray.shutdown()
        return self._lost

    @property
    def silent(self) -> bool:
        """Whether it did not answer when it was queried last."""
        return self._queried > self._heard


class RayJob:
    """`answers` are those of _run_worker: where it is, and in the end what it printed."""

    def __init__(self, answers: Any, head: Head):
        self._answers, self._head = answers, head
        self._lines: list[str] = []
        self._trouble = ""

    def begun(self) -> str:
        self._listen()
        return self._lines[0] if self._lines else ""

    def done(self) -> bool:
        self._listen()
        return bool(self._trouble) or len(self._lines) == 2

    def result(self) -> str:
        if self._trouble:
            raise RuntimeError(self._trouble)
        return self._lines[1]

    def cancel(self) -> None:
        if not self._head.lost():
            ray.cancel(self._answers, force=True)

    def _listen(self) -> None:
        if len(self._lines) < 2:
            self._trouble = self._trouble or self._head.lost()
        while not self._trouble and len(self._lines) < 2 and ray.wait([self._answers], timeout=0)[0]:
            try:
                self._lines.append(ray.get(next(self._answers)))
            except ray.exceptions.RayTaskError as error:
                where = "" if self._lines else f"{_host(str(error))}: "  # run_worker itself says where
                self._trouble = f"{where}{error_line(str(error.cause))}"
            except ray.exceptions.RayError as error:
                where = f"{self._lines[0]}: " if self._lines else ""
                self._trouble = f"{where}{type(error).__name__}: {_first(str(error))}"


class RayBackend:
    """`address` as ray.init takes it: null finds a cluster, or else starts Ray here.

    `remote` is added to what a worker asks Ray for.
    """

    def __init__(self, *, count: int | None, address: str | None, remote: Mapping[str, Any]):
        if count is not None and count < 1:
            raise BadRequest(f"hydra.launcher.count: expected at least 1, or null for all; got {count}")
        self._count, self._remote = count, dict(remote)
        _expect_head_at(address)
        try:
            ray.init(
                address=address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": import_path(), "PYTHONSAFEPATH": "1",
                                          THREADS: os.environ.get(THREADS, UNSET)}},
            )  # fmt: skip
        except ray.exceptions.AuthenticationError as error:
            raise BadRequest(f"hydra.launcher.address: expected {TOKEN}; got {_first(str(error))}") from None
        except (ConnectionError, ValueError, RuntimeError) as error:
            got = " ".join(str(error).split())
            raise BadRequest(
                f"hydra.launcher.address: expected a Ray cluster (and, where it wants one, {TOKEN}); got {got}"
            ) from None
        self._head = Head()

    def _gpus(self, device: str) -> int:
        return 0 if device == "cpu" else int(ray.cluster_resources().get("GPU", 0))

    def count(self, device: str) -> int:
        return self._count or self._gpus(device) or sum("CPU" in node["Resources"] for node in _nodes()) or 1

    def start(self, argv: Sequence[str], device: str) -> RayJob:
        options = {"max_retries": 0, "num_returns": "streaming", **self._resources(device)}
        return RayJob(ray.remote(**options)(_run_worker).remote(list(argv), str(Path.cwd())), self._head)

    def pending_reason(self, device: str) -> str:
        if self._head.silent:  # and might not answer this either
            return "Ray's head, which does not answer"
        needs = self._resources(device)
        wanted = {"CPU": needs["num_cpus"], "GPU": needs.get("num_gpus", 0), **needs.get("resources", {})}
        wanted = {name: amount for name, amount in wanted.items() if amount}
        free = ray.available_resources()
        machines = Counter(_amounts(wanted, node["Resources"]) for node in _nodes())
        has = ", ".join(f"{count} × ({amounts})" for amounts, count in machines.items())
        return f"a machine of Ray's with {_amounts(wanted, wanted)} free; it has {has}, free {_amounts(wanted, free)}"

    def _resources(self, device: str) -> dict[str, Any]:
        own = {"num_gpus": 1} if self._gpus(device) else {"scheduling_strategy": "SPREAD"}
        return {"num_cpus": 1, **own, **self._remote}


def _run_worker(argv: Sequence[str], cwd: str) -> Iterator[str]:
    """Says where it has begun, and then what came of it."""
    yield os.uname().nodename
    if os.environ.get(THREADS) == UNSET:
        del os.environ[THREADS]
    yield run_worker(argv, cwd)


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _first(text: str) -> str:
    return text.strip().splitlines()[0].split(". ")[0]


def _host(error: str) -> str:
    """Where a task failed: Ray writes its address into the text."""
    found = re.search(r"\bip=([\w.:]+)", error)
    ip = found[1] if found else "a machine of Ray's"
    return next((node["NodeManagerHostname"] for node in ray.nodes() if node["NodeManagerAddress"] == ip), ip)


def _amounts(names: Iterable[str], amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amounts.get(name, 0):g} {name}" for name in names)


def _expect_head_at(address: str | None) -> None:
    """Ray itself tries for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not (host and "/" not in host and port.isdigit()):
        return
    try:
        _connect(f"{host}:{port}", CONNECT)
    except OSError as error:
        raise BadRequest(f"hydra.launcher.address: expected a Ray cluster at {address}; got {error}") from None


def _connect(address: str, timeout: float) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()


def make(**settings: Any) -> RayBackend:
    return RayBackend(**settings)
