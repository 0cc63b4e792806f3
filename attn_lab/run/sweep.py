"""A sweep from its command line to its exit code: compose, plan, execute and store, finish."""

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from attn_lab.config.compose import Composition, compose
from attn_lab.config.errors import explained
from attn_lab.config.resolvers import register_resolvers
from attn_lab.core.errors import BadRequest, StorageError
from attn_lab.records.lock import unusable
from attn_lab.records.printable import raw
from attn_lab.records.record import Logger
from attn_lab.records.store import RunStore
from attn_lab.report.console import summary
from attn_lab.report.terminal import Terminal
from attn_lab.run.executor import Executor, Finished, make_executor
from attn_lab.run.interrupt import Interrupt
from attn_lab.run.local.machines import local_machines
from attn_lab.run.loggers import open_loggers
from attn_lab.run.output import LastingOutput
from attn_lab.run.plan import Plan, Sweep, make_plan, make_sweep
from attn_lab.run.progress import Progress, print_line
from attn_lab.run.summary import FAILED, later, planned_records, reported, summary_lines

FOREIGN = (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, ImportError, IndexError,
           KeyError, OSError, OverflowError, RecursionError, AssertionError)  # fmt: skip


@dataclass
class Tally:
    """What came of a plan so far."""

    finished: int = 0
    probing: float = 0.0  # seconds inside probes


def run(argv: Sequence[str], interrupt: Interrupt) -> int:
    """Run the cases that `argv` asks for.  Returns the exit code; raises BadRequest."""
    started = time.perf_counter()
    composed = _composed(argv, interrupt)
    if composed is None:  # Hydra has answered a flag of its own
        return 0
    sweep, executor = composed
    console = Terminal(file=LastingOutput(raw(sys.stdout)))
    store, loggers = _store(sweep), list[Logger]()
    with store:
        plan = _taken(sweep, store, loggers, console)
        tally, trouble = Tally(), None
        try:
            execute(plan, executor, store, loggers, console, tally)
            interrupt.raise_if_interrupted()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  raised again below, when all is summed up
            trouble = error
        interrupt.close()
        code = finish(plan, store, tally, loggers, console, n_workers=executor.n_workers(plan), started=started,
                      report=not interrupt.requested)  # fmt: skip
    stored = f"{plan.n_done + tally.finished} of {len(plan.cases)} cases are kept"
    if interrupt.requested:  # whatever the trouble is, Ctrl-C made it
        print(f"attn-lab: interrupted; {stored}", file=sys.stderr)
        return 130
    if isinstance(trouble, StorageError):
        raise BadRequest(f"{trouble}; {stored}")
    if trouble is not None:
        raise trouble
    return code


def planned(argv: Sequence[str], interrupt: Interrupt) -> Plan | None:
    """The plan of what `argv` asks for, None where Hydra answered a flag of its own.  Raises BadRequest."""
    composed = _composed(argv, interrupt)
    return make_plan(composed[0]) if composed else None


def execute(
    plan: Plan, executor: Executor, store: RunStore, loggers: Sequence[Logger], console: Console, tally: Tally
) -> None:
    """Run what is to do, and store each record as it comes.  Raises StorageError."""
    if not plan.todo:
        return
    progress = Progress(console, plan.todo, executor.n_workers(plan))
    try:
        with closing(executor.run(plan)) as events:  # type: ignore[type-var]  # a generator
            for event in events:
                if isinstance(event, Finished):
                    store.append(event.record)
                    for logger in loggers:
                        logger.write(event.record)
                    tally.finished += 1
                    tally.probing += event.record.metrics.get("case/probe_seconds", {}).get("value", 0.0)
                progress.update(event)
    finally:
        progress.close()


def finish(
    plan: Plan, store: RunStore, tally: Tally, loggers: Sequence[Logger], console: Console, *,
    n_workers: int, started: float, report: bool,
) -> int:  # fmt: skip
    """Print the summary, make the report, close the loggers (which may take the report along).

    Returns the exit code: 1 if any case failed or is missing, or none could run.
    """
    sweep = plan.sweep
    records, broken = planned_records(sweep.folder, plan.cases)
    # A second Ctrl-C may come between a record and its count: the file knows.
    tally.finished = max(tally.finished, sum(each.provenance["sweep"] == sweep.spec.sweep for each in records))
    stored = plan.n_done + tally.finished
    made = ""
    try:
        if records:
            summary(records, console, baseline=sweep.baseline, broken=broken)
        if tally.finished:
            wanted = report and sweep.report.enabled
            made = reported(sweep.folder, sweep.report.language, sweep.baseline) if wanted else later(sweep.folder)
    finally:
        for logger in loggers:
            logger.close()
    missing = stored < len(plan.cases)  # by a remote worker that failed
    if records or missing:
        wall = time.perf_counter() - started
        count = f"{stored} of {len(plan.cases)} cases" + f", {plan.n_done} of them before," * bool(plan.n_done)
        lines = [
            f"{count} in {wall:.1f} s, {tally.probing / wall / n_workers:.0%} of it inside probes",
            *summary_lines(records, len(plan.cases), sweep.spec.command),
            "; ".join([f"records: {store.path}", *store.notices]),
            *filter(None, (getattr(logger, "where", "") for logger in loggers)),
            *filter(None, [made]),
        ]
        print_line(console, "\n".join(lines))
    none_ran = bool(records) and all(record.status == "unsupported" for record in records)
    return int(missing or none_ran or any(record.status in FAILED for record in records))


def _composed(argv: Sequence[str], interrupt: Interrupt) -> tuple[Sweep, Executor] | None:
    """The sweep that `argv` asks for, and what runs it.  What goes wrong here is the request's fault: BadRequest."""
    register_resolvers(lambda: local_machines("auto")[0].device)
    with _bad_requests():
        composition: Composition | None = compose(argv)
        if composition is None:
            return None
        executor = make_executor(composition.launcher, interrupt)
        command = shlex.join(["attn-lab", *argv])
        return make_sweep(composition, executor.machines, command, interrupt.raise_if_interrupted), executor


@contextmanager
def _bad_requests() -> Iterator[None]:
    try:
        yield
    except BadRequest:
        raise
    except FOREIGN as error:
        raise explained(error) from None


def _store(sweep: Sweep) -> RunStore:
    return RunStore(sweep.folder, sweep=sweep.spec.sweep, **sweep.spec.limits)


def _taken(sweep: Sweep, store: RunStore, loggers: list[Logger], console: Console) -> Plan:
    """Lock the folder, see what it has, and open the loggers if anything is left.  Raises BadRequest."""
    lock = store.lock()
    if torn := store.repair():
        print_line(console, torn)
    plan = make_plan(sweep)
    if plan.todo:
        try:
            store.open()
            loggers += open_loggers(sweep.loggers, sweep.folder, sweep.spec.sweep)
        except OSError as error:
            lock.discard()
            raise unusable(sweep.folder, error) from None
        except BadRequest:
            lock.discard()
            raise
    machine, others = sweep.machines[0], len(sweep.machines) - 1
    where = f"{machine.name} ({machine.device})" + f" and {others} more" * (others > 0)
    done = f"; {plan.n_done} done before (resume={sweep.resume})" if plan.n_done else ""
    count = f"{len(plan.cases)} case{'s' if len(plan.cases) != 1 else ''}"
    print_line(console, f"{count} on {where} -> {sweep.folder}{done}")
    return plan
