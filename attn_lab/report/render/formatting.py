"""How a number and a comparison stand in a table: no more digits than they bear, and marked where they must be."""

from attn_lab.records.flags import noise
from attn_lab.records.record import Record
from attn_lab.records.stats.verdict import Verdict
from attn_lab.report import compare
from attn_lab.report.data import Experiment, ReportData
from attn_lab.report.render.blocks import Cell


def compared(data: ReportData, verdict: Verdict, mixed: list[str]) -> Cell:
    """`12.9× (12.8–13.0)`, and the word for it unless it is plain; differences of the two sides are noted."""
    word = "" if verdict.word == "faster" else f" {data.words[verdict.word]}"
    marks = f" ‡ {'; '.join(mixed)}" if mixed else ""
    return Cell(f"{verdict}{word}{marks}", verdict.ratio, kind=verdict.word)


def speedup(data: ReportData, experiment: Experiment, row: Record, one: str) -> Cell:
    """`12.9×`, with the word where it is not plainly faster; the interval on hover."""
    if row.backend == data.baseline:
        return Cell("1" if row.number(f"{one}/time") else "–")
    verdict = experiment.verdict(row, experiment.baseline_of(row), one)
    if verdict is None:
        return Cell("–")
    word = "" if verdict.word == "faster" else f" {data.words[verdict.word]}"
    hover = data.say("speedup_text", verdict=verdict, word=data.words[verdict.word])
    return Cell(f"{compare.digits(verdict.ratio)}×{word}", verdict.ratio, hover, verdict.word)


def share(row: Record, other: Record | None) -> Cell:
    """Its peak memory over the other's."""
    found = compare.memory_share(row, other)
    return Cell("–") if found is None else Cell(f"{compare.digits(100 * found)} %", found)


def number(row: Record, metric: str) -> Cell:
    """A metric's number, its interval on hover, and a mark where it is noisy."""
    value, low, high = (row.number(metric, part) for part in ("value", "low", "high"))
    why = noise(row, metric)
    interval = f"{compare.digits(low)}–{compare.digits(high)}" if low is not None and high is not None else ""
    if value is None:
        why = str(row.metrics.get(metric, {}).get("note") or "")  # a metric without a value says why
        return Cell("–", hover=why)
    return Cell(compare.digits(value) + " ≈" * bool(why), value, " · ".join(filter(None, (interval, why))))
