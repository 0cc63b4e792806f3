"""What the samples of a time leave open: draws of its median, from one record and over the rounds of several."""

import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_lab.records.record import Record

DRAWS = 2000
FEW = {2: 1.128, 3: 1.693, 4: 2.059, 5: 2.326}  # so many samples, and their mean range in standard deviations
MEDIAN = 1.2  # a median of few wanders more than their mean
CACHED = 512  # records whose draws are cached: one is compared with many, and soon after each other
MIDDLES = (np.arange(DRAWS) + 0.5) / DRAWS  # the shares at which a distribution's quantiles stand for its draws
Draws = NDArray[np.float64]


def over_rounds(sides: Sequence[Sequence[tuple[float, Draws]]]) -> tuple[float, Draws]:
    """The sum of the sides' means over their rounds, and DRAWS draws of it.

    Resampling three rounds would cover the truth four times in five where rounds differ, and nearly always where they
    do not; the wider of Student's (Welch's for two sides) and the samples' own spread covers it 19 times in 20 in both.
    """
    middle = float(sum(np.mean([middle for middle, _ in rounds]) for rounds in sides))
    within = np.zeros(DRAWS)
    for rounds in sides:
        within += sum((draws for _, draws in rounds), np.zeros(DRAWS)) / len(rounds)
    several = [np.array([middle for middle, _ in rounds]) for rounds in sides if len(rounds) > 1]
    errors = [(rounds.var(ddof=1) / len(rounds), len(rounds) - 1) for rounds in several]
    error = sum(square for square, _ in errors)
    if not errors or (not error and not np.isnan(within).any()):
        return middle, within
    freedom = error**2 / sum(square**2 / free for square, free in errors) if error else errors[0][1]
    between = middle + math.sqrt(error) * students(float(freedom))
    return middle, within if _width(within) > _width(between) else between


def interval(draws: Draws) -> tuple[float, float]:
    """Between which 95 % of the draws lie."""
    edge = len(draws) // 40
    ordered = np.partition(draws, (edge, -1 - edge))
    return float(ordered[edge]), float(ordered[-1 - edge])


def _width(draws: Draws) -> float:
    low, high = interval(draws)
    return high - low


def medians(records: Sequence[Record], metric: str, order: Iterator[int]) -> dict[Any, tuple[float, Draws]]:
    """By sweep and round: the log of a record's median, and DRAWS bootstrap draws of that.

    `order` counts the rows of one comparison: draws of two must not rise together.
    """
    found: dict[Any, tuple[float, Draws]] = {}
    for record in records:
        value = record.number(metric)
        if value and value > 0:
            draws = _rising(record, metric)[_shuffled(next(order))]
            found[record.provenance["sweep"], record.round] = (math.log(value), draws)
    return found


@lru_cache(maxsize=CACHED)
def _rising(record: Record, metric: str) -> Draws:
    """Draws of the log of a record's median, in rising order; NaN where their spread is unknown.

    The k-th smallest of n uniform numbers has a beta distribution: with k in the middle, its draws pushed through the
    samples' quantiles are the bootstrap of their median, without drawing n numbers a time.  Fewer than six hold their
    median between them less than nineteen times in twenty: those get Student's interval.
    """
    series = record.samples(metric)
    count = len(series) if series is not None else int(record.number(metric, "samples") or 1)
    if count in FEW:
        return math.log(record.number(metric) or math.nan) + _few(record, metric, count) * students(count - 1)
    if count > 1:
        through = _from_samples(series, count) if series is not None else _from_percentiles(record, metric, count)
        return np.log(through)
    return np.full(DRAWS, math.nan)


@cache
def _shuffled(place: int) -> NDArray[np.intp]:
    """An order of DRAWS draws: the same for the same place in every comparison, for making one costs as much as one."""
    return np.random.default_rng(place).permutation(DRAWS)


@lru_cache(maxsize=CACHED)
def students(freedom: float) -> Draws:
    """Draws of Student's t, in rising order: its quantiles at DRAWS equal shares."""
    from scipy.special import stdtrit

    draws: Draws = stdtrit(freedom, MIDDLES)
    return draws


@cache
def _ranks(count: int) -> Draws:
    """Where the median of `count` samples may lie among them, in rising order."""
    from scipy.special import betaincinv

    draws: Draws = betaincinv((count + 1) / 2, (count + 1) / 2, MIDDLES)
    return draws


def _few(record: Record, metric: str, count: int) -> float:
    """The standard error of the log of a few samples' median; NaN without a spread."""
    series = record.samples(metric)
    if series is not None:
        deviation = float(np.log(series).std(ddof=1))
    else:
        low, high = (record.number(metric, part) or math.nan for part in ("low", "high"))
        deviation = math.log(high / low) / 0.9 / FEW[count]  # p05 to p95 is nine tenths of so few samples' range
    return MEDIAN * deviation / math.sqrt(count)


def _from_samples(series: Draws, count: int) -> Draws:
    through: Draws = np.interp(_ranks(count) * (count - 1), np.arange(count), np.sort(series))
    return through


def _from_percentiles(record: Record, metric: str, count: int) -> Draws:
    """Quantiles where the samples were not kept: as a normal law has them through p05, median and p95; else NaN."""
    middle = record.number(metric) or math.nan
    low, high = (record.number(metric, part) or math.nan for part in ("low", "high"))
    quarter = 0.41  # a normal law's quartiles lie this far between its median and its p05 and p95
    known = [low, middle - quarter * (middle - low), middle, middle + quarter * (high - middle), high]
    if any(map(math.isnan, known)):
        return np.full(DRAWS, math.nan)
    through: Draws = np.interp(_ranks(count), (0.05, 0.25, 0.5, 0.75, 0.95), known)
    return through
