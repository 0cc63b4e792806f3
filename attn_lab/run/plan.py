"""The plan of a sweep: every case built and checked before the first runs, and which of them are done."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attn_lab.config.build import build
from attn_lab.config.compose import Composition
from attn_lab.config.errors import explained
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine
from attn_lab.loggers.jsonl import Jsonl
from attn_lab.measure.case import Case
from attn_lab.records.source import new_sweep_id
from attn_lab.report.locales.i18n import catalogue
from attn_lab.run.order import arranged, batches
from attn_lab.run.resume import CaseStatus, case_statuses, check_resume

GIVEN = ("folder", "sweep")  # what every logger is given by the run
ONE = ("name", "resume", "aa_repeat", "baseline", "report", "logger")  # of the sweep, not of its cases
LONGEST = 255  # bytes of a file's name on Linux and macOS
Machines = Callable[[str], tuple[Machine, ...]]


class SweepSpec(NamedTuple):
    """What holds for all cases of a sweep, wherever they run."""

    sweep: str
    command: str
    device: str
    limits: Mapping[str, Any]  # settings of the store: file_mb, total_mb


@dataclass(frozen=True)
class Sweep:
    """What a command line asks for: all cases, in the order they run, and the settings they share."""

    spec: SweepSpec
    folder: Path
    machines: tuple[Machine, ...]
    cases: tuple[Case, ...]
    resume: str
    baseline: str
    report: DictConfig
    loggers: DictConfig


@dataclass(frozen=True)
class Plan:
    """A sweep beside what its folder already has: nothing of it changes any more."""

    sweep: Sweep
    statuses: tuple[CaseStatus, ...]

    @property
    def cases(self) -> tuple[Case, ...]:
        return self.sweep.cases

    @cached_property
    def todo(self) -> list[Case]:
        return [each.case for each in self.statuses if each.state != "done"]

    @property
    def n_done(self) -> int:
        return len(self.cases) - len(self.todo)

    @cached_property
    def batches(self) -> list[list[Case]]:
        """The cases to run; those of one batch belong on one device."""
        return batches(self.todo)


def make_plan(sweep: Sweep) -> Plan:
    """Read what the sweep's folder has.  Nothing is written."""
    return Plan(sweep, tuple(case_statuses(sweep.folder, sweep.cases, sweep.resume)))


def make_sweep(composition: Composition, machines: Machines, command: str, check: Callable[[], None]) -> Sweep:
    """Build every case.  Raises BadRequest, one line, naming the case at fault.

    Args:
        machines: finds the machines to measure on, by device (auto, cuda or cpu).
        command: what was typed.
        check: called before each case; may raise.
    """
    jobs = composition.jobs
    if not jobs:
        raise BadRequest("overrides: expected at least one case; a glob() or range() among them matches nothing")
    cases, made, first = list[Case](), dict[str, Any](), dict[str, str]()
    found: dict[str, tuple[Machine, ...]] = {}
    sweep: Callable[[tuple[Case, ...]], Sweep] | None = None
    for number, job in enumerate(jobs, 1):
        check()
        try:
            config = composition.compose(job)
            if config.device not in found:
                found[config.device] = machines(config.device)
                found.setdefault(found[config.device][0].device, found[config.device])
            here = found[config.device]
            config.device = here[0].device  # what a configuration says by device is for this one
            _check_loggers(config)
            _check_one(job, config, first)
            cases.append(build(config, here[0], made=made))
            sweep = sweep or _without_cases(config, here, command)
        except (BadRequest, HydraException, OmegaConfBaseException, ValueError) as error:
            where = f" [case {number} of {len(jobs)}: {' '.join(job)}]" if len(jobs) > 1 else ""
            raise BadRequest(f"{explained(error)}{where}") from None
    assert sweep is not None  # there is a case
    return sweep(tuple(arranged(cases, baseline=config.baseline, aa_repeat=config.aa_repeat)))


def _without_cases(
    config: DictConfig, machines: tuple[Machine, ...], command: str
) -> Callable[[tuple[Case, ...]], Sweep]:
    """Takes what it needs of the configuration now: that is another case's soon."""
    check_resume(config.resume)
    if config.hydra.job.chdir:
        raise BadRequest("hydra.job.chdir: expected false: a sweep stays in the folder it was started in; got true")
    catalogue("pages", config.report.language)  # a language that is not there fails now, not at the end
    limits = {name: value for name, value in config.logger.jsonl.items() if name != "_target_"}
    spec = SweepSpec(new_sweep_id(config.name), command, machines[0].device, limits)
    folder, resume, baseline = Path(config.hydra.sweep.dir), config.resume, config.baseline
    report, loggers = (DictConfig(OmegaConf.to_container(each, resolve=True))
                       for each in (config.report, config.logger))  # fmt: skip
    return lambda cases: Sweep(spec, folder, machines, cases, resume, baseline, report, loggers)


def _check_one(job: Sequence[str], config: DictConfig, first: dict[str, str]) -> None:
    """What belongs to the sweep is the same in every case: only that of the `first` would count."""
    words = dict(word.split("=", 1) for word in job if word.split("=")[0].partition(".")[0] in ONE)
    for key, value in {**words, "name": config.name}.items():
        if first.setdefault(key, value) != value:
            raise BadRequest(f"{key}: expected one for the whole sweep; got {first[key]!r} and {value!r}")


def _check_loggers(config: DictConfig) -> None:
    """The run's name and loggers, as far as can be checked without opening them."""
    parts = PurePosixPath(config.name).parts
    if not parts or parts[0] == "/" or ".." in parts or not config.name.isprintable():
        raise BadRequest(f"name: expected a folder name, to lie in runs/; got {config.name!r}")
    if any(len(part.encode()) > LONGEST for part in parts):
        raise BadRequest(f"name: expected a folder name, parts of at most {LONGEST} bytes each; got {config.name!r}")
    if "jsonl" not in config.logger:
        raise BadRequest(f"logger: expected jsonl, where records are stored, among them; got {list(config.logger)}")
    for name, settings in config.logger.items():
        if not isinstance(settings, DictConfig):
            raise BadRequest(f"logger.{name}: expected a mapping with _target_; got {settings!r}")
        target = get_object(settings._target_)
        taken = [key for key in inspect.signature(target).parameters if key not in GIVEN]
        if strange := [str(key) for key in settings if key not in (*taken, "_target_")]:
            raise BadRequest(f"logger.{name}.{strange[0]}: no such key; expected {', '.join(taken) or 'nothing'}")
        if name == "jsonl" and target is not Jsonl:
            raise BadRequest(f"logger.jsonl._target_: expected {Jsonl.__module__}.Jsonl; got {settings._target_}")
    for key in ("file_mb", "total_mb"):
        value = config.logger.jsonl.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise BadRequest(f"logger.jsonl.{key}: expected a number of megabytes, at least 0; got {value!r}")
