"""The noise of a run: how far repeats of one case lie apart, under which no difference is claimed."""

import math
from collections.abc import Iterable
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from attn_lab.records.record import Record
from attn_lab.records.stats.bootstrap import Draws, medians, over_rounds, students

UNMEASURED = 0.10  # repeats of one figure wander by up to 9 % on a GPU: the floor where no A/A repeat was run
ENOUGH_RATIOS = 19  # ratios of a baseline to its A/A repeat, of which the largest is exceeded once in twenty times
MIN_EFFECT = 0.005  # two processes, and two cases of one, differ by so much that no A/A of a memory-bound baseline sees


class Floor(NamedTuple):
    """The relative difference under which nothing is claimed; `measured` by A/A, or else UNMEASURED."""

    share: float = UNMEASURED
    measured: bool = False

    @property
    def claims(self) -> float:
        """What a difference must be more than, to be one: never less than MIN_EFFECT."""
        return max(self.share, MIN_EFFECT)

    @property
    def percent(self) -> str:
        """`0.42 %`; noise past a doubling is not told in digits."""
        if self.share > 1:
            return "> 100 %"
        return f"{100 * self.share:.{0 if self.share >= 0.1 else 1 if self.share >= 0.01 else 2}f} %"

    def __str__(self) -> str:
        return (
            f"A/A floor {self.percent}" if self.measured else f"no A/A was run: under {self.percent} nothing is claimed"
        )


def noise_floor(records: Iterable[Record], metric: str) -> Floor:
    """The noise of these records' sweeps: 95 % of the ratios of a baseline to its own A/A repeat lie within it.

    The next of n ratios exceeds all n before it once in n + 1 times: of fewer than ENOUGH_RATIOS the floor is
    Student's prediction bound for the next, if that is more.
    """
    cases: dict[Any, dict[bool, list[Record]]] = {}
    for record in records:
        key = (record.setting, record.name, record.provenance["sweep"])
        cases.setdefault(key, {}).setdefault(record.is_aa_repeat, []).append(record)
    ratios: list[float] = []
    draws: list[Draws] = []
    for pair in (each for each in cases.values() if len(each) == 2):
        order = count()
        is_aa_repeat, itself = (medians(pair[which], metric, order) for which in (True, False))
        if common := [key for key in is_aa_repeat if key in itself]:
            rounds = [(itself[key][0] - is_aa_repeat[key][0], itself[key][1] - is_aa_repeat[key][1]) for key in common]
            ratios += [ratio for ratio, _ in rounds]
            draws.append(np.abs(over_rounds([rounds])[1]))
    if not ratios:
        return Floor()
    logs = [each for each in draws if not np.isnan(each).any()]
    share = float(np.quantile(np.concatenate(logs), 0.95)) if logs else 0.0
    if len(ratios) < ENOUGH_RATIOS:
        following = np.abs(students(len(ratios))) * math.sqrt(np.mean(np.square(ratios)))
        rounds_each = len(ratios) / len(draws)
        share = max(share, float(np.quantile(following, 0.95)) / math.sqrt(rounds_each))
    return Floor(math.expm1(share), True)
