"""Hands on a Ray cluster: each is a task that owns one GPU (on a cluster without, a CPU of a node)."""

import logging
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from attn_lab.core.errors import BadRequest
from attn_lab.sweep.hand import attend
from attn_lab.sweep.nursery import as_pythonpath

CONNECT = 10  # seconds in which a cluster must answer


class RayJob:
    def __init__(self, reference: Any):
        self._reference = reference

    def done(self) -> bool:
        return bool(ray.wait([self._reference], timeout=0)[0])

    def result(self) -> str:
        try:
            said: str = ray.get(self._reference)
        except ray.exceptions.RayTaskError as error:
            raise RuntimeError(str(error.cause)) from None
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from None
        return said

    def cancel(self) -> None:
        ray.cancel(self._reference, force=True)


class OnRay:
    """`address` as ray.init takes it: null finds a cluster, or else starts Ray here.

    `remote` is added to what a hand asks Ray for.
    """

    def __init__(self, *, count: int | None, address: str | None, remote: Mapping[str, Any]):
        if count is not None and count < 1:
            raise BadRequest(f"hydra.launcher.count: expected at least 1, or null for all; got {count}")
        self._count, self._remote = count, dict(remote)
        _expect_somebody_at(address)
        try:
            ray.init(
                address=address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": as_pythonpath()}},
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            got = " ".join(str(error).split())
            raise BadRequest(f"hydra.launcher.address: expected a Ray cluster; got {got}") from None

    def _gpus(self, device: str) -> int:
        return 0 if device == "cpu" else int(ray.cluster_resources().get("GPU", 0))

    def count(self, device: str) -> int:
        return self._count or self._gpus(device) or sum(node["Alive"] for node in ray.nodes())

    def start(self, words: Sequence[str], device: str) -> RayJob:
        own = {"num_gpus": 1} if self._gpus(device) else {"scheduling_strategy": "SPREAD"}
        asked = {"max_retries": 0, "num_cpus": 1, **own, **self._remote}
        return RayJob(ray.remote(**asked)(attend).remote(list(words), str(Path.cwd())))


def _expect_somebody_at(address: str | None) -> None:
    """Ray itself tries for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not (host and "/" not in host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except OSError as error:
        raise BadRequest(f"hydra.launcher.address: expected a Ray cluster at {address}; got {error}") from None


def make(**settings: Any) -> OnRay:
    return OnRay(**settings)
