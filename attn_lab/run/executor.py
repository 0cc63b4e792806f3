"""What runs a plan, and what it reports while it does."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine
from attn_lab.measure.case import Case
from attn_lab.records.record import Record
from attn_lab.run.interrupt import Interrupt
from attn_lab.run.plan import Plan


class Started(NamedTuple):
    """A worker has begun a case."""

    worker: str
    case: Case


class ProbeBegan(NamedTuple):
    worker: str
    case: Case
    probe: str


class Finished(NamedTuple):
    """A case is over; its record is not stored yet."""

    worker: str
    case: Case
    record: Record


class Notice(NamedTuple):
    """A line for the user, of what is waited for or went wrong."""

    text: str


Event = Started | ProbeBegan | Finished | Notice


class Executor(Protocol):
    """Runs cases somewhere.  Once an interrupt was requested it begins no more; closed, it ends those that run."""

    def machines(self, device: str) -> tuple[Machine, ...]:
        """The machines to measure on.  Raises BadRequest where there is none."""

    def n_workers(self, plan: Plan) -> int:
        """How many cases run at a time, at most."""

    def run(self, plan: Plan) -> Iterator[Event]:
        """Run the cases to do."""


def make_executor(launcher: Any, interrupt: Interrupt) -> Executor:
    """The executor that `hydra/launcher` asks for.  Raises BadRequest for a launcher of another's, or no cluster."""
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher  # Hydra loads its plugins anew when it starts

    from hydra_plugins.attn_lab_launcher import ClusterLauncher, WorkersLauncher

    if isinstance(launcher, WorkersLauncher):
        from attn_lab.run.local.pool import LocalPool

        return LocalPool(launcher.count, interrupt)
    if isinstance(launcher, ClusterLauncher):
        from attn_lab.run.cluster.coordinator import Coordinator

        return Coordinator(launcher.backend, launcher.settings, interrupt)
    if isinstance(launcher, BasicLauncher):
        from attn_lab.run.local.in_process import InProcess

        return InProcess(interrupt)
    raise BadRequest(f"hydra/launcher: expected basic, ray, slurm or workers; got {type(launcher).__name__}")
