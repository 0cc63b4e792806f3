"""What a backend takes besides time, against what the baseline takes: memory, energy; and how near a ceiling it is."""

from collections.abc import Iterator

from attn_lab.records.record import PASSES, Record
from attn_lab.report import compare
from attn_lab.report.findings.finding import Finding, Words
from attn_lab.report.findings.measurements import Measured


def costs(measured: Measured, words: Words) -> Iterator[Finding]:
    yield from _shares(measured, words, "memory", measured.figure("memory", "memory"))
    if any(row.number(f"{one}/energy") for row in measured.rows for one in PASSES):
        yield from _shares(measured, words, "energy", "energy")
    for one in measured.passes:
        yield from _ceiling(measured, words, one)


def _shares(measured: Measured, words: Words, what: str, figure: str) -> Iterator[Finding]:
    """By backend the least and the most of the baseline's that it needs: those that need less, then the others."""
    shares: dict[str, list[float]] = {}
    for setting in measured.settings:
        baseline = measured.at(setting, measured.baseline)
        for name, row in measured.cases[setting].items():
            share = _memory(row, baseline) if what == "memory" else _energy(row, baseline)
            if name != measured.baseline and share is not None:
                shares.setdefault(name, []).append(share)
    less = {name: each for name, each in shares.items() if max(each) <= 1.01}  # 1 % is what we call a change of memory
    more = {name: each for name, each in shares.items() if name not in less}
    for key, found in ((what, less), (f"{what}.more", more)):
        ordered = sorted(found.items(), key=lambda each: (max(each[1]), each[0]))
        text = [words("part.share", backend=name, share=words.range(100 * min(each), 100 * max(each)), count=len(each))
                for name, each in ordered]  # fmt: skip
        ends = (("least", min), ("most", max))
        numbers = {f"{name}/{end}": pick(each) for name, each in ordered for end, pick in ends}
        if found:
            yield words.finding(key, figure, numbers, baseline=measured.baseline, shares=words.all(text))


def _memory(row: Record, baseline: Record | None) -> float | None:
    return compare.memory_share(row, baseline)


def _energy(row: Record, baseline: Record | None) -> float | None:
    """Of the longest pass that both have."""
    for one in reversed(PASSES):
        mine, other = row.number(f"{one}/energy"), baseline and baseline.number(f"{one}/energy")
        if mine and other:
            return mine / other
    return None


def _ceiling(measured: Measured, words: Words, one: str) -> Iterator[Finding]:
    rows = [row for each in measured.cases.values() for row in each.values() if row.number(f"{one}/gemm_fraction")]
    if rows:
        best = max(rows, key=lambda row: row.number(f"{one}/gemm_fraction") or 0.0)
        share = best.number(f"{one}/gemm_fraction") or 0.0
        yield words.finding(
            "peak_rates", "roofline", {"share": share}, one=words(f"pass.{one}"), backend=best.backend,
            share=words.percent(share), where=measured.where(best),
        )  # fmt: skip
