"""attn_lab.profile: the lab's profiling probes over the steps of any training loop, one after the other."""

import os
import pickle
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

import torch.distributed
from torch import nn
from torch.profiler import record_function

from attn_lab.core.errors import BadRequest
from attn_lab.profiling.annotate import ranged
from attn_lab.profiling.kernels import ATTENTION_KERNELS
from attn_lab.profiling.loop_context import LoopContext
from attn_lab.profiling.memory import memory_use
from attn_lab.profiling.memory_history import history, lines_of
from attn_lab.profiling.recorder import PASS, profiling, wait
from attn_lab.profiling.results import of_kernels, of_memory, of_phases
from attn_lab.profiling.trace import Trace
from attn_lab.records.artifacts import File, scratch
from attn_lab.records.record import Logger, Measurement, Record
from attn_lab.records.source import new_sweep_id
from attn_lab.records.store import RunStore

PROBES = ("trace", "phases", "snapshot")
STEP = "train_step"


class profile:
    """Profile the first steps of a training loop; call `step()` at the end of each iteration.

        with attn_lab.profile(model, probes=["trace", "phases", "snapshot"]) as p:
            for batch in loader:
                …
                p.step()

    Each probe takes steps of its own, one after the other: one to warm up, then `active` that it observes (`snapshot`
    observes one).  Afterwards no hook is left in the model.  Under torch.distributed only rank 0 records; in the other
    processes the block does nothing.

    Args:
        model: what the loop trains; its hooks and device are used, its code is not changed.
        probes: some of "trace", "phases" and "snapshot".
        folder: the run folder: one line of records.jsonl, files below profile/.
        subject: the name of the loop in its record.
        wait: iterations to skip before the first probe.
        active: iterations that a probe observes.
        loggers: further loggers that receive the record.

    Attributes:
        record: the record, once the block is left; None in all processes but rank 0.

    Raises:
        BadRequest: for an unknown probe, and for a folder that another process writes to.
    """

    def __init__(
        self,
        model: nn.Module,
        probes: Sequence[str] = PROBES,
        *,
        folder: str | Path = "runs/profile",
        subject: str = "loop",
        wait: int = 1,
        active: int = 2,
        loggers: Sequence[Logger] = (),
    ):
        if not probes or not set(probes) <= set(PROBES):
            raise BadRequest(f"profile: expected probes, some of {', '.join(PROBES)}; got {list(probes)}")
        if active < 1 or wait < 0:
            raise BadRequest(f"profile: expected active of at least 1 and wait of at least 0; got {active} and {wait}")
        self.record: Record | None = None
        self._model, self._probes, self._folder = model, tuple(dict.fromkeys(probes)), Path(folder)
        self._wait, self._active, self._extra = wait, active, tuple(loggers)
        self._context = LoopContext(model, subject, {"probes": list(self._probes), "wait": wait, "active": active})
        self._sweep = new_sweep_id(self._folder.name or "profile")
        self._found: list[Measurement | File] = []
        self._done: list[str] = []
        self._count = 0
        self._open = ExitStack()
        self._probing: Generator[None, None, None] | None = None

    @property
    def steps(self) -> int:
        """How many steps the loop must have for every probe to see its own."""
        return self._wait + sum(1 + self._of(name) for name in self._probes)

    def __enter__(self) -> "profile":
        if _rank() != 0:
            return self
        with ExitStack() as opened:
            store = RunStore(self._folder)
            opened.callback(store.lock().release)
            store.repair()
            self._context.listen()
            opened.callback(self._context.close)
            self._probing = opened.enter_context(closing(self._watch()))
            next(self._probing)
            self._open = opened.pop_all()
        return self

    def step(self) -> None:
        """Mark the end of an iteration."""
        self._count += 1
        if self._probing is not None and next(self._probing, self) is self:
            self._probing = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _rank() == 0:
            with self._open:
                if self._probing is not None:
                    self._probing.close()  # before the record: the probe's hooks are removed
                self._write([] if error is None else [f"{type(error).__name__}: {error}"])

    def close(self) -> None:
        """Remove all hooks and release the run folder without writing a record."""
        self._open.close()

    def _write(self, reasons: list[str]) -> None:
        missing = [name for name in self._probes if name not in self._done]
        if missing:
            short = f"{', '.join(missing)}: expected {self.steps} steps; the loop had {self._count}"
            reasons.append(short)
            if len(reasons) == 1:
                warnings.warn(f"attn_lab.profile: {short}; nothing was recorded for {', '.join(missing)}", stacklevel=4)
        metrics = [each for each in self._found if isinstance(each, Measurement)]
        files = [each for each in self._found if isinstance(each, File)]
        self.record = Record(
            case=self._context.case, status="error" if reasons else "ok", reasons=reasons,
            provenance=self._context.provenance(self._sweep), metrics={each.name: each.as_json() for each in metrics},
            files=files,
        )  # fmt: skip
        with RunStore(self._folder, sweep=self._sweep) as store:
            self.record = store.append(self.record)
        for logger in self._extra:
            logger.write(self.record)
            logger.close()
        where = f"record in {self._folder / 'records.jsonl'}" + f", {len(files)} files below it" * bool(files)
        print(f"attn_lab.profile: {where}", file=sys.stderr)

    def _watch(self) -> Generator[None, None, None]:
        """Resumed at the end of each step."""
        for _ in range(self._wait):
            yield
        for name in self._probes:
            path = scratch(self._sweep) / f"{name}.trace.json.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            yield from getattr(self, f"_{name}")(path)
            self._done.append(name)

    def _trace(self, path: Path) -> Iterator[None]:
        yield from self._seen(path)
        self._found.append(File("trace", path))
        declared = {STEP: [*self._context.kernels, ATTENTION_KERNELS]}
        self._found += of_kernels(Trace(path), declared, self._context.device, path.parent, self._active)

    def _phases(self, path: Path) -> Iterator[None]:
        with ranged(self._model):
            yield from self._seen(path)
        self._found += of_phases(Trace(path), STEP, self._context.device, path.parent, self._active)
        path.unlink()

    def _snapshot(self, path: Path) -> Iterator[None]:
        before: dict[str, int] = {}
        device = self._context.device
        with ranged(self._model), history(device) as seen:
            yield from self._seen(path, before, profile_memory=True, with_stack=True)
        lines = lines_of(seen) if seen else None
        use = memory_use(Trace(path, python=True), STEP, device, before, lines)
        path.unlink()
        if seen:
            with (path.parent / "snapshot.pickle").open("wb") as file:
                pickle.dump(seen, file)
            self._found.append(File("snapshot", path.parent / "snapshot.pickle"))
        if use:
            self._found += of_memory(use, path.parent)

    def _seen(self, path: Path, before: dict[str, int] | None = None, **options: bool) -> Iterator[None]:
        active = self._active if before is None else 1
        with profiling(self._context.device, path, wait=0, warmup=1, active=active, **options) as profiler:
            yield
            profiler.step()
            for _ in range(active):
                wait(self._context.device)
                if before is not None:
                    before.update(self._context.held())
                with record_function(PASS + STEP):
                    yield
                    wait(self._context.device)
                profiler.step()

    def _of(self, name: str) -> int:
        return 1 if name == "snapshot" else self._active


def _rank() -> int:
    """This process's rank; 0 where nothing is distributed."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))
