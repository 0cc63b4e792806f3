"""Who is to be preferred in one bucket, by the records of the shapes in it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attn_lab.nn.auto.table import Entry, Ranking
from attn_lab.records.record import Record
from attn_lab.records.stats.noise_floor import MIN_EFFECT, Floor
from attn_lab.records.stats.verdict import Verdict, compare_times
from attn_lab.report import compare

PLANNED = ("forward", "backward", "forward_backward")
CLOSE = 0.02  # further apart they are never level, however loud the sweep was
Rounds = Mapping[str, list[Record]]  # by backend, all that were run of it at one setting


def entry_of(settings: Sequence[Rounds], floors: Mapping[str, Floor]) -> Entry | None:
    """What these settings, all of one bucket, say: those of them that most rivals met at.

    Who failed at any of them is not ranked.
    """
    most = max(map(len, settings))
    settings = [rounds for rounds in settings if len(rounds) == most]
    could_not: dict[str, str] = {}
    for rounds in settings:
        for name, rows in rounds.items():
            failed = next((row for row in rows if row.status != "ok"), None)
            if failed:
                could_not.setdefault(name, f"{failed.status}: {'; '.join(failed.reasons)}")
    everywhere = [name for name in settings[0] if name not in could_not and all(name in rounds for rounds in settings)]
    passes = {one: ranking for one in PLANNED if (ranking := _ranking(one, everywhere, settings, floors[one]))}
    shapes = tuple(next(iter(rounds.values()))[0].shape_text for rounds in settings)
    return Entry(passes, shapes, could_not) if passes else None


def _ranking(one: str, names: Sequence[str], settings: Sequence[Rounds], floor: Floor) -> Ranking | None:
    """The fastest first, by the geometric mean over the settings; of those level with it the simplest."""
    metric = f"{one}/time"
    times: dict[str, float] = {}
    for name in names:
        each = [compare.pooled(rounds[name])[0].number(metric) for rounds in settings]
        if all(each) and (one == "forward_backward" or "+" not in name):  # a pair's passes are those of others
            times[name] = math.exp(sum(math.log(time or 1) for time in each) / len(each))
    if not times:
        return None
    ordered = sorted(times, key=lambda name: (times[name], name))
    fastest, *others = ordered
    noise = min(max(floor.share if floor.measured else 0.0, MIN_EFFECT), CLOSE)

    def verdict(first: str, other: str) -> Verdict | None:
        """At the setting where it leads least."""
        verdicts = [compare_times(rounds[first], rounds[other], metric, floor) for rounds in settings]
        return min((each for each in verdicts if each), key=lambda each: each.ratio, default=None)

    level = [name for name in others if times[name] <= times[fastest] * (1 + noise)]
    level = [name for name in level if (text := verdict(fastest, name)) is None or text.word != "faster"]
    peaks = {name: max(compare.pooled(rounds[name])[0].number("memory/peak") or 0.0 for rounds in settings)
             for name in (fastest, *level)}  # fmt: skip
    least = min(peaks.values())

    def plain(name: str) -> tuple[bool, bool, float]:
        return "+" in name, peaks[name] > 1.05 * least, times[name]

    first = min((fastest, *level), key=plain)
    order = [first, *(name for name in ordered if name != first)]
    return Ranking({name: float(f"{times[name]:.5g}") for name in order}, _why(first, fastest, order, times, verdict))


def _why(first: str, fastest: str, order: Sequence[str], times: Mapping[str, float], verdict: Any) -> str:
    """`0.856 ms, 1.07× (1.06–1.08) faster than flash4`; of one that is not the fastest, by which rule it is taken."""
    text = f"{compare.digits(times[first])} ms"
    if first != fastest:
        rule = "one library instead of two" if "+" in fastest and "+" not in first else "what takes the least memory"
        return f"{text}, level with {fastest} ({compare.digits(times[fastest])} ms, within noise) and taken as {rule}"
    if not order[1:]:
        return f"{text}, alone"
    than = verdict(first, order[1])
    if than is None:
        return text
    words = {"faster": "faster than {}", "same": "the same as {}"}.get(than.word, "against {}, unclear")
    return f"{text}, {than} {words.format(order[1])}"
