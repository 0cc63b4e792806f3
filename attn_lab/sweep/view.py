"""What a person sees while a sweep runs: one live line on a terminal, one plain line a case anywhere else."""

from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from attn_lab.bench.case import Case
from attn_lab.bench.record import Record

COLOURS = {"ok": "green", "refused": "yellow", "oom": "yellow"}


class View:
    """Begun with the number of cases; told of each case, each probe, and each record."""

    def __init__(self, console: Console, total: int):
        self._console = console
        self._total = total
        self._counts: Counter[str] = Counter()
        self._progress = None
        if console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(), MofNCompleteColumn(), BarColumn(bar_width=20), TimeRemainingColumn(),
                TextColumn("{task.description}"), console=console, transient=True,
            )  # fmt: skip
            self._task = self._progress.add_task("", total=total)
            self._progress.start()

    def begin(self, case: Case) -> None:
        self._case = case
        self.probe("prepare")

    def probe(self, name: str) -> None:
        if self._progress:
            self._progress.update(self._task, description=f"{escape(self._case.label)} · {escape(name)}")

    def record(self, record: Record) -> None:
        self._counts[record.status] += 1
        done = sum(self._counts.values())
        colour = COLOURS.get(record.status, "red")
        said = _times(record) if record.status == "ok" else "; ".join(record.reasons)
        self._console.print(
            f"[dim]{done:>{len(str(self._total))}}/{self._total}[/] {escape(self._case.label)} "
            f"[{colour}]{record.status}[/] {escape(said)}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        if self._progress:
            self._progress.advance(self._task)

    def close(self) -> None:
        if self._progress:
            self._progress.stop()


def _times(record: Record) -> str:
    words = {"forward": "forward", "backward": "backward", "forward_backward": "step"}
    return " · ".join(
        f"{word} {record.metrics[f'{name}/time']['value']:.3g} ms"
        for name, word in words.items()
        if f"{name}/time" in record.metrics
    )
