"""How far the numbers can be trusted: what did not come out and why, the noise floor, rounds, marks, mixtures."""

from collections import Counter
from collections.abc import Iterator, Sequence

from attn_lab.records.flags import noise
from attn_lab.records.record import PASSES, STATUSES
from attn_lab.records.stats.noise_floor import MIN_EFFECT
from attn_lab.report.findings.finding import Finding, Words
from attn_lab.report.findings.measurements import Measured

CLAUSE = 90  # characters of a reason that a sentence has room for


def conduct(measured: Measured, words: Words) -> Iterator[Finding]:
    yield from _support(measured, words)
    yield from _noise(measured, words)
    if not any(measured.baseline == row.backend for row in measured.rows):
        yield words.finding("baseline.absent", "support", {}, baseline=measured.baseline)


def apart(words: Words, places: Sequence[str]) -> Finding:
    return words.finding(
        "apart", "provenance", {"places": float(len(places))}, count=len(places), places=words.several(places)
    )


def _support(measured: Measured, words: Words) -> Iterator[Finding]:
    rows = measured.rows
    counts = Counter(row.status for row in rows)
    if rows and counts["ok"] == len(rows):
        yield words.finding("support.ok", "support", {"cases": float(len(rows))}, count=len(rows))
    for status in STATUSES:
        if status == "ok" or not counts[status]:
            continue
        reasons: dict[str, Counter[str]] = {}
        for row in rows:
            if row.status == status:
                reasons.setdefault(row.backend, Counter()).update(map(clause, row.reasons[:1]))
        text = []
        for backend, why in sorted(reasons.items()):
            count = sum(row.status == status and row.backend == backend for row in rows)
            # Of several reasons the most frequent: the page that the sentence points to has them all.
            key, most = ("part.failed", why.most_common(1)[0][0]) if why else ("part.unexplained", "")
            text.append(words(key, backend=backend, count=count, reason=most))
        numbers = {"cases": float(counts[status]), "of": float(len(rows)), "share": counts[status] / len(rows)}
        yield words.finding(
            f"support.{status}", "support", numbers, count=counts[status], of=len(rows),
            share=words.percent(counts[status] / len(rows)), backends=words.several(text),
        )  # fmt: skip


def clause(reason: str) -> str:
    """As much of a reason as a sentence has room for."""
    first = reason.split(". ")[0].removesuffix(".")
    return first if len(first) <= CLAUSE else first[: CLAUSE - 1].rstrip() + "…"


def _noise(measured: Measured, words: Words) -> Iterator[Finding]:
    floors = {one: measured.floor(one) for one in measured.passes}
    known = {one: floor for one, floor in floors.items() if floor.measured}
    if known:
        text = words.all(f"{words(f'pass.{one}')} {floor.percent}" for one, floor in known.items())
        numbers = {one: floor.share for one, floor in known.items()}
        least = words.percent(MIN_EFFECT)
        yield words.finding("noise.floor", "overview", numbers, floors=text, baseline=measured.baseline, least=least)
    unknown = {one: floor for one, floor in floors.items() if not floor.measured}
    if unknown:
        share = max(floor.share for floor in unknown.values())
        passes = words.all(words(f"pass.{one}") for one in unknown)
        yield words.finding("noise.unmeasured", "overview", {"floor": share}, floor=words.percent(share), passes=passes)
    rounds = [len(rounds) for rounds in measured.rounds.values()]
    if 1 in rounds:
        numbers = {"once": float(rounds.count(1)), "of": float(len(rounds))}
        yield words.finding("rounds.one", "overview", numbers, count=rounds.count(1), of=len(rounds))
    wanted = [f"{one}/time" for one in PASSES]
    times = [(row, name) for row in measured.rows for name in wanted if row.number(name)]
    noisy = [(row, name) for row, name in times if noise(row, name)]
    if noisy:
        counts = Counter(row.backend for row, _ in noisy)
        text = words.all(words("part.count", backend=name, count=count) for name, count in counts.most_common())
        numbers = {"marked": float(len(noisy)), "of": float(len(times))}
        yield words.finding("noise.marked", "overview", numbers, count=len(noisy), of=len(times), backends=text)
