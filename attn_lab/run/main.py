"""One invocation of attn-lab: it plans the cases, has the undone ones examined, keeps the records and sums them up."""

import gc
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from attn_lab.bench.case import Case
from attn_lab.bench.examine import examine
from attn_lab.config.build import build
from attn_lab.core.errors import BadRequest, StorageError
from attn_lab.records.broken import BrokenLines as Broken
from attn_lab.records.reading import Reading
from attn_lab.records.record import Logger, Record
from attn_lab.records.record import Record as Row
from attn_lab.records.store import RunStore
from attn_lab.report.console import summary
from attn_lab.report.locales.i18n import catalogue
from attn_lab.run.cluster import coordinator
from attn_lab.run.cluster.backend import Engine, engine
from attn_lab.run.cluster.task_queue import Order
from attn_lab.run.gpu_lock import held, here, look_by
from attn_lab.run.interrupt import Interrupt
from attn_lab.run.local.pool import check_count, hired, work
from attn_lab.run.loggers import opened
from attn_lab.run.plan import arranged, batches, longest_first, plan
from attn_lab.run.progress import View
from attn_lab.run.provenance import new_sweep_id, provenance_of
from attn_lab.run.resume import Standing, check_resume, standings
from attn_lab.run.summary import FAILED, answers, last_words, later, reported

HERE = "here"  # where a case is that is examined in this very process


class NoRoom(BaseException):
    """A record could not be kept.  No Exception, for Hydra's launcher to let it through and stop the sweep."""


class Run:
    """Hydra's task function: its sweeper calls `plan`, then its launcher either `spread`, or this, once a case.

    `close` comes after them all.  `looking`, a run plans and runs nothing.
    """

    def __init__(self, console: Console, words: Sequence[str], *, looking: bool = False):
        self.console, self.looking = console, looking
        self.command = shlex.join(["attn-lab", *words])
        self.started = time.perf_counter()
        self.cases: list[Case] = []
        self.standings: list[Standing] = []
        self.todo: list[Case] = []
        self.made = 0
        self.probing, self.abreast = 0.0, 1
        self.folder: RunStore | None = None
        self.loggers: list[Logger] = []
        self.view: View | None = None
        self.engine: Engine | None = None  # what has cases examined elsewhere
        self.interrupt = Interrupt()
        look_by(None)

    def engage(self, name: str, settings: Mapping[str, Any]) -> None:
        """Have the cases examined on a cluster's machines; called before anything is planned."""
        self.engine = engaged = engine(name, settings)
        look_by(lambda device: coordinator.machines(engaged, device, say=self._say, heed=self.interrupt.heed))

    def plan(
        self, jobs: Sequence[Sequence[str]], compose: Callable[[Sequence[str]], DictConfig]
    ) -> list[Sequence[str]]:
        """Build every case, see which are done, then take the folder and open the loggers.  Raises BadRequest.

        Returns the jobs that are left, in the order they are to be run, the baseline's twins among them.
        """

        if not jobs:
            raise BadRequest("overrides: expected at least one case; a glob() or range() among them matches nothing")

        def composed(job: Sequence[str]) -> DictConfig:
            self.interrupt.heed()
            return compose(job)

        cases = plan(jobs, composed)
        config = compose(jobs[0])
        check_resume(config.resume)
        self.machines = here(config.device)
        if self.engine is None:
            check_count(config.hydra.launcher.get("count"), self.machines)
        limits = {name: value for name, value in config.logger.jsonl.items() if name != "_target_"}
        self.baseline, self.report = config.baseline, config.report
        catalogue("pages", self.report.language)  # a language we do not tell is refused now, not at the end
        jobs, self.cases = arranged(jobs, cases, baseline=self.baseline, again=config.again)
        self.path = Path(config.hydra.sweep.dir)
        self.sweep = new_sweep_id(config.name)
        self.order = Order(self.sweep, self.command, config.device, limits)
        if self.looking:
            self.standings = standings(self.path, self.cases, config.resume)
            return []
        self.folder = RunStore(self.path)
        self._lock = self.folder.lock()
        if torn := self.folder.repair():
            self._say(torn)
        self.standings = standings(self.path, self.cases, config.resume)
        left = [(job, each.case) for job, each in zip(jobs, self.standings, strict=True) if each.state != "done"]
        self.todo = [case for _, case in left]
        if self.todo:
            self._open(config.logger)
        done = len(self.cases) - len(self.todo)
        self._say(
            f"{len(self.cases)} case{'s' if len(self.cases) != 1 else ''} on {self._where} -> {self.path}"
            + (f"; {done} done before (resume={config.resume})" if done else "")
        )
        return [job for job, _ in left]

    def _open(self, settings: DictConfig) -> None:
        try:
            self.loggers += opened(settings, self.path, self.sweep)
        except BadRequest:
            self._lock.discard()
            self.folder = None
            raise

    @property
    def _where(self) -> str:
        machine, count = self.machines[0], len(self.machines)
        return f"{machine.name} ({machine.device})" + f" and {count - 1} more" * (count > 1)

    def __call__(self, config: DictConfig) -> str:
        """Examine the case `config` describes in this process, and keep its record.  Returns its status."""
        self.interrupt.heed()
        self.view = self.view or View(self.console, self.todo)
        case = build(config, HydraConfig.get().runtime.choices)
        self.view.begin(HERE, case)
        origin = provenance_of(case, self.machines[0], self.sweep, self.command)
        record = examine(case, self.machines[0], origin, lambda name: self.view.probe(HERE, name))  # type: ignore[union-attr]
        if not self.made:
            gc.freeze()  # what the first case has loaded stays: a collection after each then takes ms, not 0.2 s
        self._keep(HERE, case, record)
        self.interrupt.heed()
        return record.status

    def spread(self, count: int | None) -> None:
        """Have worker processes examine all that is left: `count` of them, or as many as there are GPUs."""
        workers, dealt = hired(self.machines, count), batches(self.todo)
        self.abreast = len(workers)
        try:
            gpus = [worker.machine.uuid for worker in workers if worker.machine.uuid]
            with held(gpus, self.interrupt.heed, self._say):
                self.view = View(self.console, self.todo, self.abreast)
                if self.abreast > 1 and self.machines[0].device == "cpu":
                    self._say(f"{self.abreast} workers share this CPU, and disturb each other's times")
                work(
                    workers, longest_first(dealt) if self.abreast > 1 else dealt,
                    origin=lambda case, worker: provenance_of(case, worker.machine, self.sweep, self.command),
                    keep=self._keep, stopping=lambda: self.interrupt.asked, view=self.view,
                )  # fmt: skip
        finally:
            for worker in workers:
                worker.close()
        self.interrupt.heed()

    def spread_afar(self) -> None:
        """Have hands on a cluster's machines examine all that is left."""
        assert self.engine is not None
        dealt = longest_first(batches(self.todo))
        self.abreast = min(len(self.machines), len(dealt))
        self.view = View(self.console, self.todo, self.abreast)
        coordinator.follow(
            self.engine, self.abreast, self.path, self.order, dealt,
            keep=self._keep, stopping=lambda: self.interrupt.asked, say=self._say, view=self.view,
        )  # fmt: skip
        self.interrupt.heed()

    def _keep(self, worker: str, case: Case, record: Record) -> None:
        assert self.view is not None
        try:
            for logger in self.loggers:
                logger.write(record)
        except StorageError as error:  # Hydra would go on with the next case; nothing it finds could be kept
            raise NoRoom(f"{error}; {self.kept} of {len(self.cases)} cases are kept") from None
        self.made += 1
        self.probing += record.metrics.get("harness/probes", {}).get("value", 0.0)
        self.view.record(worker, case, record)

    @property
    def kept(self) -> int:
        return len(self.cases) - len(self.todo) + self.made

    def close(self) -> int:
        """Stop the view, print the summary, make the report, close the loggers (which may take the report along).

        Returns 1 if any case was wrong or failed.
        """
        self.interrupt.close()
        if self.view is not None:
            self.view.close()
        rows, broken = answers(self.path, self.cases) if self.folder is not None else Reading([], Broken())
        report = ""
        try:
            if rows:
                summary(rows, self.console, baseline=self.baseline, broken=broken)
            report = self._report()
        finally:
            for logger in self.loggers:
                logger.close()
        lost = self.folder is not None and self.kept < len(self.cases)  # by a hand that failed
        if rows or lost:
            self._say_how_it_went(rows, report)
        if self.folder is not None:
            self.folder.close()
        look_by(None)
        none_ran = bool(rows) and all(row.status == "refused" for row in rows)
        return int(lost or none_ran or any(row.status in FAILED for row in rows))

    def _report(self) -> str:
        if not self.made:
            return ""
        if not self.report.at_end or self.interrupt.asked:
            return later(self.path)
        return reported(self.path, self.report.language, self.baseline)

    def _say_how_it_went(self, rows: Sequence[Row], report: str) -> None:
        wall = time.perf_counter() - self.started
        done = self.kept - self.made
        before = f", {done} of them before," * bool(done)
        count = f"{self.kept} of {len(self.cases)} cases{before}"
        lines = [
            f"{count} in {wall:.1f} s, {self.probing / wall / self.abreast:.0%} of it inside probes",
            *last_words(rows, len(self.cases), self.command),
            *filter(None, (getattr(logger, "where", "") for logger in self.loggers)),
            *filter(None, [report]),
        ]
        self._say("\n".join(lines))

    def _say(self, words: str) -> None:
        self.console.print(words, highlight=False, soft_wrap=True, markup=False)
