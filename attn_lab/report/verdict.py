"""Which of two is faster, and may one say so: a ratio, its bootstrap interval, and the noise that it must exceed."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attn_lab.report.read import Row

DRAWS = 2000
UNMEASURED = 0.10  # repeats of one figure wander by up to 9 % on a GPU; where no A/A was run, less is not judged
FEW = {2: 1.128, 3: 1.693, 4: 2.059, 5: 2.326}  # so many samples, and their mean range in standard deviations
MEDIAN = 1.2  # a median of few wanders more than their mean
Word = Literal["faster", "slower", "same", "unclear"]
Draws = NDArray[np.float64]


class Floor(NamedTuple):
    """The relative difference under which nothing is claimed; `measured` by A/A, or else UNMEASURED."""

    share: float = UNMEASURED
    measured: bool = False

    def __str__(self) -> str:
        told = f"{100 * self.share:.2g} %"
        return f"A/A floor {told}" if self.measured else f"no A/A was run: under {told} nothing is claimed"


class Verdict(NamedTuple):
    """`ratio` is how many times the speed of the other: above 1 is faster.  low, high: its 95 % interval."""

    ratio: float
    low: float
    high: float
    word: Word
    floor: Floor

    def __str__(self) -> str:
        """`1.43× (1.41–1.45)`, with no more digits than the interval supports."""
        if math.isinf(self.high):
            return f"{self.ratio:.2g}× (no interval)"
        places = decimals(self.ratio, self.high - self.low)
        return f"{self.ratio:.{places}f}× ({self.low:.{places}f}–{self.high:.{places}f})"


def decimals(value: float, width: float) -> int:
    """Places that an interval of this width supports; of a value below 1 its first digit at least."""
    supported = 3 if width <= 0 else min(math.ceil(-math.log10(width / 2)), 4)
    return max(supported, -math.floor(math.log10(value)), 0)


def judge(mine: Sequence[Row], other: Sequence[Row], metric: str, floor: Floor) -> Verdict | None:
    """The verdict on a time (`forward/time`): the rounds of one backend against those of another at the same setting.

    The interval is the wider of two: the bootstrap of the samples within the rounds, and Student's over the rounds.
    Rounds that one sweep ran of both are compared with each other, so that what drifts between rounds cancels.
    faster, slower: the whole interval lies beyond the floor; same: it lies within twice the floor; else unclear, and
    always where one side is a single sample: its interval is 0 to infinity.  None where either has no such time.
    """
    logs = _log_ratios(mine, other, metric)
    if logs is None:
        return None
    middle, draws = logs
    low, high = (float(np.exp(each)) for each in np.quantile(draws, (0.025, 0.975)))
    if math.isnan(low):
        low, high = 0.0, math.inf
    ratio, edge = math.exp(middle), 1 + floor.share
    word: Word = "unclear"
    if low > edge:
        word = "faster"
    elif high < 1 / edge:
        word = "slower"
    elif 1 / (1 + 2 * floor.share) <= low and high <= 1 + 2 * floor.share:
        word = "same"
    return Verdict(ratio, min(low, ratio), max(high, ratio), word, floor)


def floor_of(rows: Iterable[Row], metric: str) -> Floor:
    """The noise of these rows' sweeps: 95 % of the ratios of a baseline to its own twin lie within it."""
    cases: dict[Any, dict[bool, list[Row]]] = {}
    for row in rows:
        key = (row.setting, row.name, row.provenance.get("sweep"))
        cases.setdefault(key, {}).setdefault(row.twin, []).append(row)
    found = [_log_ratios(pair[True], pair[False], metric) for pair in cases.values() if len(pair) == 2]
    draws = [np.abs(each[1]) for each in found if each is not None and not np.isnan(each[1]).any()]
    return Floor(float(np.expm1(np.quantile(np.concatenate(draws), 0.95))), True) if draws else Floor()


def _log_ratios(mine: Sequence[Row], other: Sequence[Row], metric: str) -> tuple[float, Draws] | None:
    """log(other's time / mine): of the medians, and DRAWS draws of it (NaN where nothing tells their spread)."""
    if _names(other, metric) < _names(mine, metric):  # one order for both ways round: the two answers mirror each other
        mirrored = _log_ratios(other, mine, metric)
        return mirrored and (-mirrored[0], -mirrored[1])
    generator = np.random.default_rng(0)
    a, b = (_medians(rows, metric, generator) for rows in (mine, other))
    if not a or not b:
        return None
    if common := [key for key in a if key in b]:
        return _over_rounds([[(b[key][0] - a[key][0], b[key][1] - a[key][1]) for key in common]], generator)
    return _over_rounds([list(b.values()), [(-middle, -draws) for middle, draws in a.values()]], generator)


def _names(rows: Sequence[Row], metric: str) -> list[tuple[str, ...]]:
    return sorted((str(row.provenance.get("sweep")), row.backend, row.id, str(row.number(metric))) for row in rows)


def _over_rounds(sides: Sequence[Sequence[tuple[float, Draws]]], generator: np.random.Generator) -> tuple[float, Draws]:
    """The sum of the sides' means over their rounds, and DRAWS draws of it.

    Resampling three rounds would cover the truth four times in five where rounds differ, and nearly always where they
    do not; the wider of Student's (Welch's for two sides) and the samples' own spread covers it 19 times in 20 in both.
    """
    middle = float(sum(np.mean([middle for middle, _ in rounds]) for rounds in sides))
    within: Draws = np.sum([np.mean([draws for _, draws in rounds], axis=0) for rounds in sides], axis=0)
    several = [np.array([middle for middle, _ in rounds]) for rounds in sides if len(rounds) > 1]
    errors = [(rounds.var(ddof=1) / len(rounds), len(rounds) - 1) for rounds in several]
    error = sum(square for square, _ in errors)
    if not errors or (not error and not np.isnan(within).any()):
        return middle, within
    freedom = error**2 / sum(square**2 / free for square, free in errors) if error else errors[0][1]
    between = middle + math.sqrt(error) * generator.standard_t(freedom, size=DRAWS)
    return middle, within if _width(within) > _width(between) else between


def _width(draws: Draws) -> float:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(high - low)


def _medians(rows: Sequence[Row], metric: str, generator: np.random.Generator) -> dict[Any, tuple[float, Draws]]:
    """By sweep and round: the log of a row's median, and DRAWS bootstrap draws of that.

    The k-th smallest of n uniform numbers has a beta distribution: with k in the middle, its draws pushed through the
    samples' quantiles are the bootstrap of their median, without drawing n numbers a time.  Fewer than six hold their
    median between them less than nineteen times in twenty: those get Student's interval.
    """
    found: dict[Any, tuple[float, Draws]] = {}
    for row in rows:
        value, count = row.number(metric), row.number(metric, "samples")
        if not value or value <= 0:
            continue
        series = row.series(metric)
        count = len(series) if series is not None else int(count or 1)
        draws = np.full(DRAWS, math.nan)
        if count in FEW:
            draws = math.log(value) + _few(row, metric, count) * generator.standard_t(count - 1, size=DRAWS)
        elif count > 1:
            ranks = generator.beta((count + 1) / 2, (count + 1) / 2, size=DRAWS)
            draws = np.log(np.quantile(series, ranks) if series is not None else _from_percentiles(row, metric, ranks))
        found[row.provenance.get("sweep"), row.round] = (math.log(value), draws)
    return found


def _few(row: Row, metric: str, count: int) -> float:
    """The standard error of the log of a few samples' median; NaN without a spread."""
    series = row.series(metric)
    if series is not None:
        deviation = float(np.log(series).std(ddof=1))
    else:
        low, high = (row.number(metric, part) or math.nan for part in ("low", "high"))
        deviation = math.log(high / low) / 0.9 / FEW[count]  # p05 to p95 is nine tenths of so few samples' range
    return MEDIAN * deviation / math.sqrt(count)


def _from_percentiles(row: Row, metric: str, ranks: Draws) -> Draws:
    """Quantiles where the samples were not kept: as a normal law has them through p05, median and p95; else NaN."""
    middle = row.number(metric) or math.nan
    low, high = (row.number(metric, part) or math.nan for part in ("low", "high"))
    quarter = 0.41  # a normal law's quartiles lie this far between its median and its p05 and p95
    known = [low, middle - quarter * (middle - low), middle, middle + quarter * (high - middle), high]
    through: Draws = np.interp(ranks, (0.05, 0.25, 0.5, 0.75, 0.95), known)
    return through
