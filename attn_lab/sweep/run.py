"""One invocation of attn-lab: it plans the cases, examines each, keeps the records and sums them up."""

import gc
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from attn_lab.bench.case import Case
from attn_lab.bench.examine import examine
from attn_lab.bench.record import Logger, Record
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import detect
from attn_lab.report.command import make
from attn_lab.report.console import summary
from attn_lab.report.language import catalogue
from attn_lab.report.read import records
from attn_lab.sweep.plan import arranged, build, plan, sweep_folder
from attn_lab.sweep.provenance import new_sweep_id, provenance_of
from attn_lab.sweep.view import View


class NoRoom(BaseException):
    """A record could not be kept.  No Exception, for Hydra's launcher to let it through and stop the sweep."""


class Run:
    """The task function Hydra calls once a case, with `plan` called before and `close` after them all."""

    def __init__(self, console: Console):
        self.console = console
        self.started = time.perf_counter()
        self.cases: list[Case] = []
        self.made: list[Record] = []
        self.loggers: list[Logger] = []
        self.view: View | None = None
        self.stopping = False

    def interrupt(self, *_: object) -> None:
        """What SIGINT does while this run goes on: the case at hand is finished; a second one stops at once.

        Not KeyboardInterrupt at once: omegaconf, caught while it composes the next case, raises nonsense in its place.
        """
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        signs = "attn-lab: interrupted; finishing the case at hand (Ctrl-C again stops at once)"
        print(signs, file=sys.stderr, flush=True)

    def _heed(self) -> None:
        if self.stopping:
            raise KeyboardInterrupt

    def plan(
        self, jobs: Sequence[Sequence[str]], compose: Callable[[Sequence[str]], DictConfig]
    ) -> list[Sequence[str]]:
        """Build every case, then make the folder, open the loggers and begin the view.  Raises BadRequest.

        Returns the jobs in the order they are to be run, the baseline's twins among them.
        """

        def composed(job: Sequence[str]) -> DictConfig:
            self._heed()
            return compose(job)

        cases = plan(jobs, composed)
        config = compose(jobs[0])
        self.baseline, self.report = config.baseline, config.report
        catalogue("pages", self.report.language)  # a language we do not tell is refused now, not at the end
        jobs, self.cases = arranged(jobs, cases, baseline=self.baseline, again=config.again)
        self.folder = Path(config.hydra.sweep.dir)
        self.sweep = new_sweep_id(config.name)
        fresh = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        sweep_folder(str(self.folder))
        try:
            self.loggers += (_opened(settings, self.folder, self.sweep) for settings in config.logger.values())
        except BadRequest:
            if fresh:
                shutil.rmtree(self.folder)
                for parent in fresh[1:]:
                    parent.rmdir()
            raise
        machine = detect(config.device)
        self.console.print(
            f"{len(self.cases)} case{'s' if len(self.cases) != 1 else ''} on {machine.name} ({machine.device}) "
            f"-> {self.folder}", highlight=False, soft_wrap=True,
        )  # fmt: skip
        self.view = View(self.console, len(self.cases))
        return jobs

    def __call__(self, config: DictConfig) -> str:
        """Examine the case `config` describes and keep its record.  Returns its status."""
        assert self.view is not None
        self._heed()
        case = build(config, HydraConfig.get().runtime.choices)
        machine = detect(config.device)
        self.view.begin(case)
        record = examine(case, machine, provenance_of(case, machine, self.sweep), self.view.probe)
        try:
            for logger in self.loggers:
                logger.write(record)
        except OSError as error:  # Hydra would go on with the next case; nothing it finds could be kept
            raise NoRoom(
                f"{error.filename or self.folder}: expected room for a record; got {error.strerror}; "
                f"{len(self.made)} of {len(self.cases)} cases are kept"
            ) from None
        if not self.made:
            gc.freeze()  # what the first case has loaded stays: a collection after each then takes ms, not 0.2 s
        self.made.append(record)
        self.view.record(record)
        self._heed()
        return record.status

    def close(self) -> int:
        """Stop the view, print the summary, make the report, close the loggers (which may take the report along).

        Returns 1 if any case was wrong or an error.
        """
        if self.view is not None:
            self.view.close()
        told = ""
        try:
            if self.made:
                rows, broken = records(self.folder, sweep=self.sweep)
                summary(rows, self.console, baseline=self.baseline, broken=broken)
                told = self._report()
        finally:
            for logger in self.loggers:
                logger.close()
        if self.made:
            self._say_where_and_how_long(told)
        return int(any(record.status in ("wrong", "error") for record in self.made))

    def _report(self) -> str:
        """Make the folder's report, and say where it is, or why there is none: the records are safe either way."""
        later = f"attn-lab report {self.folder}"
        if not self.report.at_end or self.stopping:
            return f"no report was made; later: {later}"
        try:
            page, *_ = make(
                [self.folder], self.folder / "report", language=self.report.language, baseline=self.baseline
            )
            return f"report: {page}"
        except BadRequest as error:
            return f"no report was made ({error}); later: {later}"

    def _say_where_and_how_long(self, report: str) -> None:
        wall = time.perf_counter() - self.started
        probing = sum(record.metrics["harness/probes"]["value"] for record in self.made)
        lines = [
            f"{len(self.made)} of {len(self.cases)} cases in {wall:.1f} s, {probing / wall:.0%} of it inside probes"
        ]
        lines += filter(None, (getattr(logger, "where", "") for logger in self.loggers))
        lines.append(report)
        self.console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)


def _opened(settings: Any, folder: Path, sweep: str) -> Logger:
    try:
        return instantiate(settings, folder=folder, sweep=sweep)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, BadRequest):
            raise cause from None
        if isinstance(cause, OSError):
            raise BadRequest(f"run folder {folder}: expected a folder to write to; got {cause.strerror}") from None
        raise
