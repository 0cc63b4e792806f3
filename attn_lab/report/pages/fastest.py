"""The fastest backend at each shape, and those not distinguishable from it."""

from collections.abc import Iterator
from typing import NamedTuple

from attn_lab.records.record import Record
from attn_lab.records.stats.verdict import Verdict
from attn_lab.report import compare
from attn_lab.report.data import Experiment, ReportData


class Winner(NamedTuple):
    """`level` holds the others whose difference to `first` is noise or unclear, each with the verdict on first."""

    experiment: Experiment
    first: Record
    level: list[tuple[Record, Verdict]]
    following: tuple[Record, Verdict] | None  # the fastest that is clearly slower
    beside: Verdict | None  # of first against the baseline


def winners(data: ReportData, one: str) -> Iterator[Winner]:
    """For each setting that has times for the pass, in the order of its numbers."""
    for experiment in data.experiments:
        settings: dict[object, list[Record]] = {}
        for row in sorted(experiment.cases, key=compare.order):
            if row.number(f"{one}/time") is not None:
                settings.setdefault(row.setting, []).append(row)
        for rows in settings.values():
            first, *others = sorted(rows, key=lambda row: (row.number(f"{one}/time") or 0.0, row.backend))
            level, following = [], None
            for other in others:  # the slower they get, the clearer: the first that is beaten ends the search
                verdict = experiment.verdict(first, other, one)
                if verdict and verdict.word == "faster":
                    following = other, verdict
                    break
                if verdict:
                    level.append((other, verdict))
            yield Winner(
                experiment, first, level, following, experiment.verdict(first, experiment.baseline_of(first), one)
            )
