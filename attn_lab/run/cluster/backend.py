"""What a sweep needs of a cluster: to run remote workers on its machines.  Ray and Slurm are two that can."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from attn_lab.core.errors import BadRequest

BACKENDS = {"ray": ("attn_lab.run.cluster.ray", "ray"), "slurm": ("attn_lab.run.cluster.slurm", "submitit")}


class Job(Protocol):
    """A remote worker that was submitted."""

    def begun(self) -> str:
        """Where it runs, or ran; "" while it waits for a machine."""

    def done(self) -> bool: ...

    def result(self) -> str:
        """What it printed.  Raises RuntimeError, with a line that says why, if it failed."""

    def cancel(self) -> None: ...


class ClusterBackend(Protocol):
    def count(self, device: str) -> int:
        """How many remote workers at most, each with a GPU of its own where the device is not the CPU."""

    def start(self, argv: Sequence[str], device: str) -> Job:
        """Run `remote_worker.run_worker(argv)` somewhere."""

    def pending_reason(self, device: str) -> str:
        """What workers that have not begun wait for."""


def cluster_backend(name: str, settings: Mapping[str, Any]) -> ClusterBackend:
    """Connect to a cluster.  Raises BadRequest where it, or its package, is not there."""
    if name not in BACKENDS:
        raise BadRequest(f"hydra.launcher.backend: expected one of {', '.join(BACKENDS)}; got {name!r}")
    module, package = BACKENDS[name]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise BadRequest(
            f"hydra/launcher={name}: expected the package {package} (pip install 'attn-lab[{name}]'); got {error}"
        ) from None
    try:
        made: ClusterBackend = importlib.import_module(module).make(**settings)
    except TypeError as error:
        raise BadRequest(f"hydra.launcher: expected the settings of {name}; got {error}") from None
    return made
