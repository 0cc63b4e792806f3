"""Which of two is faster, and may one say so: a ratio, its bootstrap interval, and the noise that it must exceed."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attn_lab.report.read import Row

DRAWS = 2000
UNMEASURED = 0.10  # repeats of one figure wander by up to 9 % on a GPU; where no A/A was run, less is not judged
ALIKE = 0.05  # nobody chooses by less; but what noise hides may be more, and then is not called the same
LEAST = 0.002  # an A/A within one process does not see what differs between two: less is never claimed, however quiet
Word = Literal["faster", "slower", "same", "unclear"]
Draws = NDArray[np.float64]


class Floor(NamedTuple):
    """The relative difference under which nothing is claimed; `measured` by A/A, or else UNMEASURED."""

    share: float = UNMEASURED
    measured: bool = False

    @property
    def percent(self) -> str:
        return f"{100 * self.share:.{0 if self.share >= 0.1 else 1 if self.share >= 0.01 else 2}f} %"

    def __str__(self) -> str:
        return (
            f"A/A floor {self.percent}" if self.measured else f"no A/A was run: under {self.percent} nothing is claimed"
        )


class Verdict(NamedTuple):
    """`ratio` is how many times the speed of the other: above 1 is faster.  low, high: its 95 % interval."""

    ratio: float
    low: float
    high: float
    word: Word
    floor: Floor

    def __str__(self) -> str:
        """`1.43× (1.41–1.45)`, with no more digits than the interval supports."""
        width = self.high - self.low
        places = 3 if width <= 0 else min(max(math.ceil(-math.log10(width / 1.5)), 0), 4)
        return f"{self.ratio:.{places}f}× ({self.low:.{places}f}–{self.high:.{places}f})"


def judge(mine: Sequence[Row], other: Sequence[Row], metric: str, floor: Floor) -> Verdict | None:
    """The verdict on a time (`forward/time`): the rounds of one backend against those of another at the same setting.

    Bootstrap over rounds, and over the samples within each.  Rounds that one sweep ran of both are compared with each
    other, so that what drifts between rounds cancels.  faster, slower: the whole interval lies beyond the floor, and
    LEAST; same: it lies within twice that, and ALIKE; else unclear.  None where either has no such time.
    """
    logs = _log_ratios(mine, other, metric)
    if logs is None:
        return None
    middle, draws = logs
    low, high = (float(np.exp(each)) for each in np.quantile(draws, (0.025, 0.975)))
    ratio, noise = math.exp(middle), max(floor.share, LEAST)
    edge, alike = 1 + noise, 1 + min(2 * noise, ALIKE)
    word: Word = "unclear"
    if low > edge:
        word = "faster"
    elif high < 1 / edge:
        word = "slower"
    elif 1 / alike <= low and high <= alike:
        word = "same"
    return Verdict(ratio, min(low, ratio), max(high, ratio), word, floor)


def floor_of(rows: Iterable[Row], metric: str) -> Floor:
    """The noise of these rows' sweeps: 95 % of the ratios of a baseline to its own twin lie within it."""
    cases: dict[Any, dict[bool, list[Row]]] = {}
    for row in rows:
        key = (row.setting, row.name, row.provenance.get("sweep"))
        cases.setdefault(key, {}).setdefault(row.twin, []).append(row)
    found = [_log_ratios(pair[True], pair[False], metric) for pair in cases.values() if len(pair) == 2]
    draws = [np.abs(each[1]) for each in found if each is not None]
    return Floor(float(np.expm1(np.quantile(np.concatenate(draws), 0.95))), True) if draws else Floor()


def _log_ratios(mine: Sequence[Row], other: Sequence[Row], metric: str) -> tuple[float, Draws] | None:
    """log(other's time / mine): of the medians, and DRAWS bootstrap draws of it."""
    generator = np.random.default_rng(0)
    a, b = (_medians(rows, metric, generator) for rows in (mine, other))
    if not a or not b:
        return None
    if common := [key for key in a if key in b]:
        middle = float(np.mean([b[key][0] - a[key][0] for key in common]))
        return middle, _resampled(np.stack([b[key][1] - a[key][1] for key in common]), generator)
    middle = float(np.mean([each[0] for each in b.values()]) - np.mean([each[0] for each in a.values()]))
    left, right = (_resampled(np.stack([each[1] for each in rounds.values()]), generator) for rounds in (a, b))
    return middle, right - left


def _resampled(rounds: Draws, generator: np.random.Generator) -> Draws:
    """Means over rounds drawn with replacement: (rounds, DRAWS) -> (DRAWS,)."""
    count = len(rounds)
    chosen = generator.integers(count, size=(count, DRAWS))
    drawn: Draws = np.take_along_axis(rounds, chosen, axis=0).mean(axis=0)
    return drawn


def _medians(rows: Sequence[Row], metric: str, generator: np.random.Generator) -> dict[Any, tuple[float, Draws]]:
    """By sweep and round: the log of a row's median, and DRAWS bootstrap draws of that.

    The k-th smallest of n uniform numbers has a beta distribution: with k in the middle, its draws pushed through the
    samples' quantiles are the bootstrap of their median, without drawing n numbers a time.
    """
    found: dict[Any, tuple[float, Draws]] = {}
    for row in rows:
        value, count = row.number(metric), row.number(metric, "samples")
        if not value or value <= 0:
            continue
        series = row.series(metric)
        count = len(series) if series is not None else int(count or 1)
        if count < 2:
            draws = np.full(DRAWS, value)
        else:
            ranks = generator.beta((count + 1) / 2, (count + 1) / 2, size=DRAWS)
            draws = np.quantile(series, ranks) if series is not None else _from_percentiles(row, metric, ranks)
        found[row.provenance.get("sweep"), row.round] = (math.log(value), np.log(draws))
    return found


def _from_percentiles(row: Row, metric: str, ranks: Draws) -> Draws:
    """Quantiles where the samples were not kept: straight lines through p05, median and p95."""
    value = row.number(metric) or 0.0
    known = [row.number(metric, "low") or value, value, row.number(metric, "high") or value]
    through: Draws = np.interp(ranks, (0.05, 0.5, 0.95), known)
    return through
