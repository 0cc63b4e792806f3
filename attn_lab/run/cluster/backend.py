"""What a sweep asks of a cluster: to have hands attend on its machines.  Ray and Slurm are two that can."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from attn_lab.core.errors import BadRequest

ENGINES = {"ray": ("attn_lab.run.cluster.ray", "ray"), "slurm": ("attn_lab.run.cluster.slurm", "submitit")}


class Job(Protocol):
    """A hand that was asked for."""

    def begun(self) -> str:
        """Where it is at work, or was; `` while it waits for a machine."""

    def done(self) -> bool: ...

    def result(self) -> str:
        """What it printed.  Raises RuntimeError, with a line that says why, if it failed."""

    def cancel(self) -> None: ...


class Engine(Protocol):
    def count(self, device: str) -> int:
        """How many hands at most, each with a GPU of its own where the device is not the CPU."""

    def start(self, words: Sequence[str], device: str) -> Job:
        """Have `hand.attend(words)` run somewhere."""

    def wanting(self, device: str) -> str:
        """What hands that have not begun wait for."""


def engine(name: str, settings: Mapping[str, Any]) -> Engine:
    module, package = ENGINES[name]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise BadRequest(
            f"hydra/launcher={name}: expected the package {package} (pip install 'attn-lab[{name}]'); got {error}"
        ) from None
    try:
        made: Engine = importlib.import_module(module).make(**settings)
    except TypeError as error:
        raise BadRequest(f"hydra.launcher: expected the settings of {name}; got {error}") from None
    return made
