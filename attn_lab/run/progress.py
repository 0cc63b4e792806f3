"""The progress of a sweep: on a terminal a bar and a line a worker, elsewhere one plain line a case."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from attn_lab.measure.case import Case
from attn_lab.records.record import STATUS_COLOURS, Record
from attn_lab.run.executor import Event, Notice, ProbeBegan, Started

PASSES = {"train_step": "train step", "forward_backward": "step", "forward": "forward", "backward": "backward"}
"""The first measured is compared."""


class Progress:
    """Shows the events of a sweep."""

    def __init__(self, console: Console, cases: Sequence[Case], workers: int = 1):
        self._console, self._workers = console, workers
        self._coming = Counter(case.backend_name for case in cases)
        self._total = len(cases)
        self._counts: Counter[str] = Counter()
        self._at: dict[str, tuple[Case, float]] = {}  # by worker: its case, since when
        self._took: dict[str, list[float]] = defaultdict(list)  # by backend: count and sum of the seconds of a case
        self._best: dict[str, tuple[float, str]] = {}  # by setting: the least ms, and a text of it
        self._rows: dict[str, TaskID] = {}  # by worker, of `running`
        self._sweep = Bars(
            SpinnerColumn(), MofNCompleteColumn(), BarColumn(20), _TimeLeft(self._left), _field("counts")
        )
        self._whole = self._sweep.add_task("", total=len(cases), counts="")
        label = Column(no_wrap=True, overflow="ellipsis")
        self._running = Bars(_field("worker", "dim"), _field("label", column=label), _field("probe", "cyan"),
                             TimeElapsedColumn(), _field("best", "green"))  # fmt: skip
        self._live = None
        if console.is_terminal:
            bars = Group(self._sweep, self._running)
            self._live = Live(bars, console=console, transient=True, refresh_per_second=8)
            self._live.start()

    def update(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Notice):
            print_line(self._console, event.text)
        elif isinstance(event, Started):
            self._at[event.worker] = event.case, time.monotonic()
            best = self._best.get(event.case.setting)
            self._rows[event.worker] = self._running.add_task(
                "", total=None, worker=event.worker, label=event.case.label, probe="prepare",
                best=f"best {best[1]}" if best else "",
            )  # fmt: skip
        elif isinstance(event, ProbeBegan):
            if self._at.get(event.worker, (None,))[0] is event.case:
                self._running.update(self._rows[event.worker], probe=event.probe)
        else:
            self._finished(*event)

    def _finished(self, worker: str, case: Case, record: Record) -> None:
        """A case is over.  Its worker may be at the next by now."""
        self._counts[record.status] += 1
        self._coming[case.backend_name] -= 1
        self._took[case.backend_name].append(record.metrics["case/seconds"]["value"])
        if self._at.get(worker, (None,))[0] is case:
            del self._at[worker]
            self._running.remove_task(self._rows.pop(worker))
        counts = " ".join(f"[{STATUS_COLOURS[status]}]{count} {status}[/]"
                          for status, count in self._counts.most_common())  # fmt: skip
        self._sweep.update(self._whole, advance=1, counts=counts)
        done = sum(self._counts.values())
        where = f" [dim]{escape(worker)}[/]" if self._workers > 1 else ""
        outcome = _times(record) if record.status == "ok" else "; ".join(record.reasons)
        self._console.print(
            f"[dim]{done:>{len(str(self._total))}}/{self._total}[/]{where} {escape(case.label)} "
            f"[{STATUS_COLOURS[record.status]}]{record.status}[/] {escape(' '.join(outcome.split()))}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        self._compare(case, record)

    def close(self) -> None:
        if self._live:
            self._live.stop()

    def _compare(self, case: Case, record: Record) -> None:
        for name, word in PASSES.items():
            if record.status == "ok" and (metric := record.metrics.get(f"{name}/time")):
                mine = metric["value"], f"{case.backend_name} {metric['value']:.3g} ms {word}"
                self._best[case.setting] = min(mine, self._best.get(case.setting, mine))
                return

    def _left(self) -> str:
        """The time to go, from what the finished cases of each backend took; `` before there are any."""
        known = [seconds for times in self._took.values() for seconds in times]
        if not known:
            return ""
        usual = sum(known) / len(known)
        means = {backend: sum(times) / len(times) for backend, times in self._took.items()}
        ahead = sum(count * means.get(backend, usual) for backend, count in self._coming.items())
        now = time.monotonic()
        spent = sum(min(now - since, means.get(case.backend_name, usual)) for case, since in self._at.values())
        minutes, seconds = divmod(int(max(ahead - spent, 0) / self._workers), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"


class _TimeLeft(ProgressColumn):
    def __init__(self, estimate: Callable[[], str]):
        super().__init__()
        self._estimate = estimate

    def render(self, task: Task) -> Text:
        return Text(self._estimate())


def _field(name: str, style: str = "none", column: Column | None = None) -> TextColumn:
    """A field of a task; only the counts have markup."""
    return TextColumn(f"{{task.fields[{name}]}}", style=style, markup=name == "counts", table_column=column)


def print_line(console: Console, text: str) -> None:
    """One line of plain text, not wrapped."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _times(record: Record) -> str:
    words = {"forward": "forward", "backward": "backward", "forward_backward": "step", "train_step": "train step"}
    return " · ".join(
        f"{word} {record.metrics[f'{name}/time']['value']:.3g} ms"
        for name, word in words.items()
        if f"{name}/time" in record.metrics
    )
