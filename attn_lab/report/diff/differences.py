"""Two runs, A before and B after, held against each other case by case: what was asked matches them, not their ids."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from attn_lab.records.flags import noise
from attn_lab.records.record import PASSES, Record
from attn_lab.records.stats.noise_floor import UNMEASURED, Floor, noise_floor
from attn_lab.records.stats.verdict import Verdict, compare_times
from attn_lab.report import compare

BROKEN = ("incorrect", "error", "crashed", "oom", "timeout")  # what an ok case must not become
TIMES = tuple(f"{one}/time" for one in PASSES)
METRICS = (*TIMES, "memory/peak")
MEMORY = 0.01  # memory is counted, not sampled: a change of 1 % is one
# From the worst to the best, then what says nothing.
KINDS = ("broken", "slower", "more memory", "unsupported", "gone", "failing", "new", "fixed", "faster", "less memory",
         "unclear", "same")  # fmt: skip


class Difference(NamedTuple):
    """One case in one respect.  `metric` is empty where the status changed or the case is in one run only."""

    kind: str
    row: Record  # B's, or A's of a case that is gone
    metric: str = ""
    before: float | None = None
    after: float | None = None
    verdict: Verdict | None = None  # B's speed over A's
    statuses: tuple[str, str] = ("ok", "ok")
    reason: str = ""
    noisy: bool = False


class Case(NamedTuple):
    """A case of one run: its rounds that may be compared, none if one of them is not ok."""

    status: str
    rounds: list[Record]
    row: Record

    def number(self, metric: str) -> float | None:
        return compare.pooled(self.rounds)[0].number(metric) if self.rounds else None


Key = tuple[tuple[str, Any], ...]


def differences(
    a_rows: Sequence[Record], b_rows: Sequence[Record], metrics: Sequence[str] = METRICS
) -> list[Difference]:
    """Every case of either run, the worst first.  The machines may differ: give runs of one machine each."""
    a_rows, b_rows = compare.disambiguate(a_rows, b_rows)
    before, after = _cases(a_rows), _cases(b_rows)
    floors = {metric: both(noise_floor(a_rows, metric), noise_floor(b_rows, metric)) for metric in metrics}
    found: list[Difference] = []
    for key in dict.fromkeys([*before, *after]):
        a, b = before.get(key), after.get(key)
        if a and b:
            found += _of_case(a, b, floors)
        elif only := a or b:
            statuses = (only.status, "–") if a else ("–", only.status)
            found.append(Difference("gone" if a else "new", only.row, statuses=statuses, reason=_reason(only.row)))
    return sorted(found, key=_order)


def both(a: Floor, b: Floor) -> Floor:
    """The larger noise of two runs; measured only if it was in both."""
    return Floor(max(floor.share if floor.measured else UNMEASURED for floor in (a, b)), a.measured and b.measured)


def common(a_rows: Sequence[Record], b_rows: Sequence[Record]) -> int:
    a_rows, b_rows = compare.disambiguate(a_rows, b_rows)
    return len(_cases(a_rows).keys() & _cases(b_rows).keys())


def fields(row: Record) -> Mapping[str, Any]:
    """What was asked, whatever it ran on."""
    return {name: value for name, value in row.fields.items() if name != "machine"}


def _cases(rows: Iterable[Record]) -> dict[Key, Case]:
    found: dict[Key, dict[tuple[str, ...], list[Record]]] = {}
    for row in rows:
        if not row.is_aa_repeat:  # an A/A repeat is the noise floor's, and no case
            key = (("backend", row.backend), *sorted(fields(row).items()))
            passes = tuple(row.provenance["config"].get("passes") or ())
            found.setdefault(key, {}).setdefault(passes, []).append(row)
    return {key: _case(list(fields.values())) for key, fields in found.items()}


def _case(questions: Sequence[Sequence[Record]]) -> Case:
    """The same shape may be asked of several passes: what came out ok of one question is not lost with another."""
    ok = [row for rounds in questions if all(row.status == "ok" for row in rounds) for row in rounds]
    failed = [row for rounds in questions for row in rounds if row.status != "ok"]
    return Case("ok", ok, ok[0]) if ok else Case(failed[0].status, [], failed[0])


def _of_case(a: Case, b: Case, floors: Mapping[str, Floor]) -> list[Difference]:
    statuses = (a.status, b.status)
    if statuses == ("ok", "ok"):
        return [found for metric in floors if (found := _of_metric(a, b, metric, floors[metric]))]
    kind = "same" if a.status == b.status else "failing"
    if a.status == "ok":
        kind = "broken" if b.status in BROKEN else "unsupported"
    elif b.status == "ok":
        kind = "fixed"
    return [Difference(kind, b.row, statuses=statuses, reason=_reason(b.row))]


def _with(rounds: Sequence[Record], metric: str) -> Record:
    """One of the rounds that has the metric: the same shape may have been asked of several passes."""
    return next(row for row in rounds if metric in row.metrics)


def _of_metric(a: Case, b: Case, metric: str, floor: Floor) -> Difference | None:
    """None where either has no such number, or their memory is that of different passes."""
    before, after = a.number(metric), b.number(metric)
    if not before or not after:
        return None
    noisy = any(noise(row, metric) for row in (*a.rounds, *b.rounds))
    if metric.startswith("memory/"):
        if _timed(a) != _timed(b):
            return None
        change = after / before - 1
        kind = "same" if abs(change) <= MEMORY else "more memory" if change > 0 else "less memory"
        return Difference(kind, _with(b.rounds, metric), metric, before, after, noisy=noisy)
    verdict = compare_times(b.rounds, a.rounds, metric, floor)
    return verdict and Difference(verdict.word, _with(b.rounds, metric), metric, before, after, verdict, noisy=noisy)


def _timed(case: Case) -> list[str]:
    return [metric for metric in TIMES if case.number(metric)]


def _reason(row: Record) -> str:
    return row.reasons[0] if row.reasons else ""


def _order(found: Difference) -> tuple[Any, ...]:
    """The worst first, and of one kind the largest."""
    ratio = found.verdict.ratio if found.verdict else (found.before or 1.0) / (found.after or 1.0)
    size = -ratio if found.kind in ("faster", "less memory") else ratio
    return KINDS.index(found.kind), size, compare.order(found.row), found.row.backend, found.metric
