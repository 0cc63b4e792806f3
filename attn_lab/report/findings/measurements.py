"""The rows that may be compared, by setting and backend, with their verdicts, each computed once."""

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Any

from attn_lab.records.axes import families
from attn_lab.records.flags import noise
from attn_lab.records.record import AXES, PASSES, Record
from attn_lab.records.stats.bootstrap import FEW
from attn_lab.records.stats.comparisons import Comparisons
from attn_lab.records.stats.noise_floor import Floor
from attn_lab.records.stats.verdict import Verdict, Word, compare_times, threshold
from attn_lab.report import compare
from attn_lab.report.findings.finding import Span

Setting = Hashable


class Measured:
    """The rows of one place.  Only cases with every round ok have numbers; A/A repeats serve the floor alone."""

    def __init__(self, rows: Sequence[Record], baseline: str):
        self.baseline = baseline
        (self.everything,) = compare.disambiguate(rows)
        self.rows = [row for row in self.everything if not row.is_aa_repeat]
        self.rounds: dict[tuple[Setting, str], list[Record]] = {}  # of each case, those that came out ok
        fields: dict[Any, list[Record]] = {}
        for row in self.rows:  # forward alone and all passes are two questions: one may be refused, the other not
            passes = row.provenance["config"].get("passes") or ()
            fields.setdefault((row.setting, row.backend, tuple(passes)), []).append(row)
        for (setting, backend, _), rounds in fields.items():
            if all(row.status == "ok" for row in rounds):
                self.rounds.setdefault((setting, backend), []).extend(rounds)
        self.cases: dict[Setting, dict[str, Record]] = {}
        for (setting, backend), rounds in self.rounds.items():
            self.cases.setdefault(setting, {})[backend] = compare.pooled(rounds)[0]
        self._comparisons = Comparisons(self.everything)

    @cached_property
    def settings(self) -> list[Setting]:
        """Those with a number, in its order."""
        return sorted(self.cases, key=lambda setting: compare.order(next(iter(self.cases[setting].values()))))

    @cached_property
    def varying(self) -> list[str]:
        return compare.several(self.rows)

    @cached_property
    def axes(self) -> dict[str, list[list[Record]]]:
        """By swept axis the families of its cases; two axes that move together are one, as in the figures."""
        found: dict[str, list[list[Record]]] = {}
        for family in families([row for each in self.cases.values() for row in each.values()], {}):
            if family.axis:
                found.setdefault(family.axis, []).append(family.rows)
        return found

    @cached_property
    def passes(self) -> list[str]:
        cases = [row for each in self.cases.values() for row in each.values()]
        return [one for one in PASSES if any(row.number(f"{one}/time") for row in cases)]

    def at(self, setting: Setting, backend: str) -> Record | None:
        return self.cases.get(setting, {}).get(backend)

    def timed(self, setting: Setting, one: str) -> list[Record]:
        """The cases that have a time of the pass, the fastest first."""
        cases = [(row.number(f"{one}/time"), row) for row in self.cases[setting].values()]
        return [row for _, row in sorted(((time, row) for time, row in cases if time), key=lambda each: each[0])]

    def floor(self, one: str) -> Floor:
        """The noise of a pass at this place."""
        return self._comparisons.floor(one)

    def word(self, setting: Setting, mine: str, other: str, one: str) -> Word:
        """The verdict's word at one setting where both have a time.

        Where the p05 of all rounds of one lies beyond the p95 of all of the other, and the floor between, it is plain:
        a judge's millisecond goes to those that are near, and to those of few samples or of two rounds.
        """
        rows = self.cases[setting][mine], self.cases[setting][other]
        beyond = 1 + threshold(rows[:1], rows[1:], f"{one}/time", self.floor(one))
        (low, high), (least, most) = ([row.number(f"{one}/time", part) for part in ("low", "high")] for row in rows)
        samples = min(row.number(f"{one}/time", "samples") or 0 for row in rows)
        if samples > max(FEW) and 2 not in {len(self.rounds[setting, name]) for name in (mine, other)}:
            if high and least and high * beyond < least:
                return "faster"
            if low and most and most * beyond < low:
                return "slower"
        verdict = self.judge(setting, mine, other, one)
        return verdict.word if verdict else "unclear"

    def span(self, setting: Setting, mine: str, other: str, one: str) -> Span:
        """How many times the other's speed, at one setting where both have a time."""
        verdict = self.judge(setting, mine, other, one)
        assert verdict is not None
        return Span(*verdict[:3], self.noisy(one, (setting, mine), (setting, other)))

    def noisy(self, one: str, *cases: tuple[Setting, str]) -> bool:
        """Whether the time of one of the cases is marked as noisy in one of its rounds."""
        rounds = [row for case in cases for row in self.rounds.get(case, [])]
        return any(noise(row, f"{one}/time") for row in rounds)

    def judge(self, setting: Setting, mine: str, other: str, one: str) -> Verdict | None:
        """`mine` against `other` at one setting."""
        rounds, others = (self.rounds.get((setting, backend), []) for backend in (mine, other))
        return self._comparisons.verdict((setting, mine, other), rounds, others, one)

    def change(self, backend: str, first: Setting, last: Setting, one: str) -> Span | None:
        """How many times its time at the first setting a backend takes at the last."""
        before, after = (self.rounds.get((setting, backend), []) for setting in (first, last))
        verdict = compare_times(before, after, f"{one}/time", self.floor(one))
        return Span(*verdict[:3], self.noisy(one, (first, backend), (last, backend))) if verdict else None

    def where(self, row: Record) -> str:
        """The fields by which the row's setting differs from others here: `seq_len 256`, or `16×256×32×2048 · full`."""
        moving = [name for name in self.varying if name in AXES]
        if len(moving) < 2:
            return compare.text(row, self.varying)
        words = compare.text(row, [name for name in self.varying if name not in AXES])
        return " · ".join(filter(None, ["×".join(str(row.shape[axis]) for axis in AXES), words]))

    def figure(self, what: str, page: str = "figures") -> str:
        """The figure of a pass, or of memory, along the one axis that was swept; of several axes, the page."""
        if not self.axes:
            return "figures-point"
        return f"figures-{next(iter(self.axes))}-{what}" if len(self.axes) == 1 else page
