"""Which of two is faster, and may one say so: a ratio, its bootstrap interval, and the noise that it must exceed."""

import math
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, Literal, NamedTuple

import numpy as np

from attn_lab.report.draws import Draws, interval, medians, over_rounds, students
from attn_lab.report.read import Row

UNMEASURED = 0.10  # repeats of one figure wander by up to 9 % on a GPU; where no A/A was run, less is not judged
ALIKE = 0.05  # nobody chooses by less; but what noise hides may be more, and then is not called the same
ENOUGH = 19  # ratios of a baseline to its twin, of which the largest is exceeded once in twenty times
LEAST = 0.005  # two processes, and two cases of one, differ by so much that no A/A of a memory-bound baseline sees
UNLIKE = 0.01  # cuDNN's backward is 0.75 % faster on a card that rests, naive 0.2 % slower, where neither is at its cap
ANYTHING = 100  # times the low end: an interval as wide supports no place of any of its numbers
Word = Literal["faster", "slower", "same", "unclear"]


class Floor(NamedTuple):
    """The relative difference under which nothing is claimed; `measured` by A/A, or else UNMEASURED."""

    share: float = UNMEASURED
    measured: bool = False

    @property
    def claims(self) -> float:
        """What a difference must be more than, to be one: never less than LEAST."""
        return max(self.share, LEAST)

    @property
    def percent(self) -> str:
        """`0.42 %`; how much noise there is past a doubling, nobody needs to know."""
        if self.share > 1:
            return "> 100 %"
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
        if math.isinf(self.high):
            return f"{rough(self.ratio)}× (no interval)"
        if self.high > ANYTHING * self.low:
            return f"{rough(self.ratio)}× ({rough(self.low)}–{rough(self.high)})"
        places = decimals(*self[:3])
        return f"{self.ratio:.{places}f}× ({self.low:.{places}f}–{self.high:.{places}f})"


def decimals(ratio: float, low: float, high: float) -> int:
    """Places that an interval supports; but never so few that a ratio vanishes, or that 1.4 is not told from 1."""
    supported = 3 if high <= low else min(math.ceil(-math.log10((high - low) / 1.5)), 4)
    return max(supported, -math.floor(math.log10(ratio)), int(low < 2))


def rough(value: float) -> str:
    """Two significant digits, noughts after them, no exponent: 16135 is 16000."""
    places = 1 - math.floor(math.log10(value))
    return f"{round(value, places):.{max(places, 0)}f}"


def judge(mine: Sequence[Row], other: Sequence[Row], metric: str, floor: Floor) -> Verdict | None:
    """The verdict on a time (`forward/time`): the rounds of one backend against those of another at the same setting.

    The interval is the wider of two: the bootstrap of the samples within the rounds, and Student's over the rounds.
    Rounds that one sweep ran of both are compared with each other, so that what drifts between rounds cancels.
    faster, slower: the whole interval lies beyond the floor (`edge`); same: it lies within twice that, and ALIKE
    however loud it was; else unclear, and always where one side is a single sample: its interval is 0 to infinity.
    None where either has no such time.
    """
    logs = _log_ratios(mine, other, metric)
    if logs is None:
        return None
    middle, draws = logs
    low, high = map(math.exp, interval(draws))
    if math.isnan(low):
        low, high = 0.0, math.inf
    ratio, noise = math.exp(middle), edge(mine, other, metric, floor)
    beyond, near = 1 + noise, 1 + min(2 * noise, ALIKE)
    word: Word = "unclear"
    if low > beyond:
        word = "faster"
    elif high < 1 / beyond:
        word = "slower"
    elif 1 / near <= low and high <= near:
        word = "same"
    return Verdict(ratio, min(low, ratio), max(high, ratio), word, floor)


def edge(mine: Sequence[Row], other: Sequence[Row], metric: str, floor: Floor) -> float:
    """What a difference must exceed: what the floor claims; UNLIKE, if more, where some were timed with rests alone."""
    rest = f"{metric.partition('/')[0]}/rest"
    rested = {bool(row.number(rest)) for rows in (mine, other) for row in rows}
    return max(floor.claims, UNLIKE * (len(rested) > 1))


def floor_of(rows: Iterable[Row], metric: str) -> Floor:
    """The noise of these rows' sweeps: 95 % of the ratios of a baseline to its own twin lie within it.

    The next of n ratios exceeds all n before it once in n + 1 times: of fewer than ENOUGH the floor is what Student
    expects of the next, if that is more.
    """
    cases: dict[Any, dict[bool, list[Row]]] = {}
    for row in rows:
        key = (row.setting, row.name, row.provenance.get("sweep"))
        cases.setdefault(key, {}).setdefault(row.twin, []).append(row)
    ratios: list[float] = []
    draws: list[Draws] = []
    for pair in (each for each in cases.values() if len(each) == 2):
        order = count()
        twin, itself = (medians(pair[which], metric, order) for which in (True, False))
        if common := [key for key in twin if key in itself]:
            rounds = [(itself[key][0] - twin[key][0], itself[key][1] - twin[key][1]) for key in common]
            ratios += [ratio for ratio, _ in rounds]
            draws.append(np.abs(over_rounds([rounds])[1]))
    if not ratios:
        return Floor()
    logs = [each for each in draws if not np.isnan(each).any()]
    share = float(np.quantile(np.concatenate(logs), 0.95)) if logs else 0.0
    if len(ratios) < ENOUGH:
        following = np.abs(students(len(ratios))) * math.sqrt(np.mean(np.square(ratios)))
        rounds_each = len(ratios) / len(draws)
        share = max(share, float(np.quantile(following, 0.95)) / math.sqrt(rounds_each))
    return Floor(math.expm1(share), True)


def _log_ratios(mine: Sequence[Row], other: Sequence[Row], metric: str) -> tuple[float, Draws] | None:
    """log(other's time / mine): of the medians, and DRAWS draws of it (NaN where nothing tells their spread)."""
    if _names(other, metric) < _names(mine, metric):  # one order for both ways round: the two answers mirror each other
        mirrored = _log_ratios(other, mine, metric)
        return mirrored and (-mirrored[0], -mirrored[1])
    order = count()
    a, b = (medians(rows, metric, order) for rows in (mine, other))
    if not a or not b:
        return None
    if common := [key for key in a if key in b]:
        return over_rounds([[(b[key][0] - a[key][0], b[key][1] - a[key][1]) for key in common]])
    return over_rounds([list(b.values()), [(-middle, -draws) for middle, draws in a.values()]])


def _names(rows: Sequence[Row], metric: str) -> list[tuple[str, ...]]:
    return sorted((str(row.provenance.get("sweep")), row.backend, row.id, str(row.number(metric))) for row in rows)
