"""attn_lab.profile: probes over the steps of somebody's own loop, one after the other, and a record of it all."""

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from torch import nn
from torch.profiler import record_function

from attn_lab.bench.files import File, scratch
from attn_lab.bench.record import Logger, Measurement, Record
from attn_lab.core.errors import BadRequest
from attn_lab.loggers.jsonl import Jsonl
from attn_lab.profiling.annotate import ranged
from attn_lab.profiling.kernels import ATTENTION_KERNELS
from attn_lab.profiling.loop_context import LoopContext
from attn_lab.profiling.memory import memory_use
from attn_lab.profiling.memory_history import history, lines_of
from attn_lab.profiling.recorder import PASS, profiling, wait
from attn_lab.profiling.results import of_kernels, of_memory, of_phases
from attn_lab.profiling.trace import Trace
from attn_lab.sweep.folder import RunFolder
from attn_lab.sweep.provenance import new_sweep_id

PROBES = ("trace", "phases", "snapshot")
STEP = "train_step"


class profile:
    """Use it around a loop, and call `step()` at the end of each iteration; the first `wait` are let pass.

        with attn_lab.profile(model, probes=["trace", "phases", "snapshot"]) as p:
            for batch in loader:
                …
                p.step()

    Each probe then has steps of its own: one to warm up, `active` to look at (`snapshot` looks at one).  After them
    nothing is left in the model.  What was seen is a line of FOLDER/records.jsonl, with files in FOLDER/profile, given
    to `loggers` as well; `record` holds it once the block is left.  `subject` is what it is called there.

    Raises BadRequest for a probe that there is not, and for a folder that another process writes to.
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

    @property
    def steps(self) -> int:
        """How many steps the loop must have for every probe to see its own."""
        return self._wait + sum(1 + self._of(name) for name in self._probes)

    def __enter__(self) -> "profile":
        self._lock = RunFolder(self._folder)
        self._lock.repair()
        self._context.listen()
        self._count = 0
        self._watching: Iterator[None] | None = self._watch()
        next(self._watching)
        return self

    def step(self) -> None:
        """An iteration has ended."""
        self._count += 1
        if self._watching is not None:
            try:
                next(self._watching)
            except StopIteration:
                self._watching = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._watching is not None:
                self._watching.close()  # type: ignore[attr-defined]  # a generator: its hooks go
            self._context.close()
            self._keep([] if error is None else [f"{type(error).__name__}: {error}"])
        finally:
            self._lock.close()

    def _keep(self, reasons: list[str]) -> None:
        missing = [name for name in self._probes if name not in self._done]
        if missing:
            reasons.append(f"{', '.join(missing)}: expected {self.steps} steps; the loop had {self._count}")
        metrics = [each for each in self._found if isinstance(each, Measurement)]
        self.record = Record(
            case=self._context.case, status="error" if reasons else "ok", reasons=reasons,
            provenance=self._context.provenance(self._sweep), metrics={each.name: each.as_json() for each in metrics},
            files=[each for each in self._found if isinstance(each, File)],
        )  # fmt: skip
        loggers = [Jsonl(folder=self._folder, sweep=self._sweep), *self._extra]
        for logger in loggers:
            logger.write(self.record)
        for logger in loggers:
            logger.close()

    def _watch(self) -> Iterator[None]:
        """Goes on at the end of each step."""
        for _ in range(self._wait):
            yield
        for name in self._probes:
            path = scratch(self._sweep) / f"{name}.trace.json.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            yield from getattr(self, f"_{name}")(path)
            self._done.append(name)
        yield from ()

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
