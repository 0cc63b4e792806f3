"""Which of two backends is faster: the ratio, its bootstrap interval, and the noise that it must exceed."""

import math
from collections.abc import Sequence
from itertools import count
from typing import Literal, NamedTuple

from attn_lab.records.record import Record
from attn_lab.records.stats.bootstrap import Draws, interval, medians, over_rounds
from attn_lab.records.stats.noise_floor import Floor

SAME_WITHIN = 0.05  # less is no reason to choose; noise may hide more, and then two times are not called the same
# Where only one side was timed with rests: cuDNN's backward is 0.75 % faster on a GPU that rests, naive 0.2 % slower,
# where neither is at its power cap.
MIN_EFFECT_UNLIKE = 0.01
WIDEST = 100  # times the low end: an interval as wide supports no place of any of its numbers
Word = Literal["faster", "slower", "same", "unclear"]


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
        if self.high > WIDEST * self.low:
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


def compare_times(mine: Sequence[Record], other: Sequence[Record], metric: str, floor: Floor) -> Verdict | None:
    """The verdict on a time (`forward/time`): the rounds of one backend against those of another at the same setting.

    The interval is the wider of two: the bootstrap of the samples within the rounds, and Student's over the rounds.
    Rounds that one sweep ran of both are compared with each other, so that what drifts between rounds cancels.
    faster, slower: the whole interval lies beyond the `threshold`; same: it lies within twice that, and within
    SAME_WITHIN; else unclear, and always where one side is a single sample: its interval is 0 to infinity.
    None where either has no such time.
    """
    logs = _log_ratios(mine, other, metric)
    if logs is None:
        return None
    middle, draws = logs
    low, high = map(math.exp, interval(draws))
    if math.isnan(low) or math.isnan(high):
        low, high = 0.0, math.inf
    ratio, noise = math.exp(middle), threshold(mine, other, metric, floor)
    beyond, near = 1 + noise, 1 + min(2 * noise, SAME_WITHIN)
    word: Word = "unclear"
    if low > beyond:
        word = "faster"
    elif high < 1 / beyond:
        word = "slower"
    elif 1 / near <= low and high <= near:
        word = "same"
    return Verdict(ratio, min(low, ratio), max(high, ratio), word, floor)


def threshold(mine: Sequence[Record], other: Sequence[Record], metric: str, floor: Floor) -> float:
    """What a difference must exceed: the floor's claim, or MIN_EFFECT_UNLIKE where only some were timed with rests."""
    rest = f"{metric.partition('/')[0]}/rest_ratio"
    rested = {bool(record.number(rest)) for records in (mine, other) for record in records}
    return max(floor.claims, MIN_EFFECT_UNLIKE * (len(rested) > 1))


def _log_ratios(mine: Sequence[Record], other: Sequence[Record], metric: str) -> tuple[float, Draws] | None:
    """log(other's time / mine): of the medians, and DRAWS draws of it (NaN where their spread is unknown)."""
    if _names(other, metric) < _names(mine, metric):  # one order for both ways round: the two answers mirror each other
        mirrored = _log_ratios(other, mine, metric)
        return mirrored and (-mirrored[0], -mirrored[1])
    order = count()
    a, b = (medians(records, metric, order) for records in (mine, other))
    if not a or not b:
        return None
    if common := [key for key in a if key in b]:
        return over_rounds([[(b[key][0] - a[key][0], b[key][1] - a[key][1]) for key in common]])
    return over_rounds([list(b.values()), [(-middle, -draws) for middle, draws in a.values()]])


def _names(records: Sequence[Record], metric: str) -> list[tuple[str, ...]]:
    return sorted((each.provenance["sweep"], each.backend, each.id, str(each.number(metric))) for each in records)
