"""Noise floors of passes and verdicts between cases of some records, each computed once."""

from collections.abc import Hashable, Sequence

from attn_lab.records.record import Record
from attn_lab.records.stats.noise_floor import Floor, noise_floor
from attn_lab.records.stats.verdict import Verdict, compare_times


class Comparisons:
    """`records` are all of one sweep or run, A/A repeats included: the floor is theirs."""

    def __init__(self, records: Sequence[Record]):
        self._records = records
        self._floors: dict[str, Floor] = {}
        self._verdicts: dict[tuple[Hashable, str], Verdict | None] = {}

    def floor(self, one: str) -> Floor:
        """The noise of a pass."""
        if one not in self._floors:
            self._floors[one] = noise_floor(self._records, f"{one}/time")
        return self._floors[one]

    def verdict(self, key: Hashable, mine: Sequence[Record], other: Sequence[Record], one: str) -> Verdict | None:
        """Rounds of one case against those of another; `key` names the two."""
        if (key, one) not in self._verdicts:
            self._verdicts[key, one] = compare_times(mine, other, f"{one}/time", self.floor(one))
        return self._verdicts[key, one]
