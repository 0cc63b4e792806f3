"""The fastest backend and by how much, its gain over the baseline, and backends slower than the baseline."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from attn_lab.records.record import Record
from attn_lab.report.findings.finding import Finding, Span, Words
from attn_lab.report.findings.measurements import Measured, Setting


class Pair(NamedTuple):
    """One setting, a backend's case there, the one it is held against, and how many times its speed it has."""

    setting: Setting
    row: Record
    other: str
    ratio: float


class Lead(NamedTuple):
    """The fastest at one setting against the second, and others that no verdict tells from the fastest."""

    over: Pair
    beside: list[str]


def winners(measured: Measured, words: Words) -> Iterator[Finding]:
    for one in measured.passes:
        leads = [lead for setting in measured.settings if (lead := _lead(measured, setting, one))]
        if leads:
            yield _fastest(measured, words, one, leads)
    for one in measured.passes:
        yield from _against(measured, words, one)


def _lead(measured: Measured, setting: Setting, one: str) -> Lead | None:
    timed = measured.timed(setting, one)
    if len(timed) < 2:
        return None
    first, *others = (row.backend for row in timed)
    beside = [name for name in others if measured.word(setting, first, name, one) != "faster"]
    return Lead(_pair(setting, timed[0], timed[1], one), beside)


def _pair(setting: Setting, row: Record, other: Record, one: str) -> Pair:
    times = [each.number(f"{one}/time") or 0.0 for each in (row, other)]
    return Pair(setting, row, other.backend, times[1] / times[0])


def _fastest(measured: Measured, words: Words, one: str, leads: list[Lead]) -> Finding:
    alone = [lead for lead in leads if not lead.beside]
    shared = [lead for lead in leads if lead.beside]
    widest = max((lead.over for lead in alone or leads), key=lambda over: over.ratio)
    span = _span(measured, widest, one)
    counts = Counter(lead.over.row.backend for lead in alone)
    numbers = {f"{name}/settings": float(count) for name, count in counts.items()}
    numbers |= {"settings": float(len(leads)), "shared": float(len(shared)), **span.numbers("lead")}
    front = words.all(sorted({name for lead in shared for name in (lead.over.row.backend, *lead.beside)}))
    key = f"fastest{'.point' * (len(leads) == 1)}{'.shared' * (not alone)}"
    text = words.all(words("part.count", backend=name, count=count) for name, count in counts.most_common())
    also = words("part.shared", count=len(shared), backends=front) if shared else ""
    return words.finding(
        key, measured.figure(one), numbers, one=words(f"pass.{one}"), count=len(leads), winners=text, shared=also,
        backend=widest.row.backend, second=widest.other, span=words.span(span), where=measured.where(widest.row),
        backends=front,
    )  # fmt: skip


def _against(measured: Measured, words: Words, one: str) -> Iterator[Finding]:
    """The fastest of each setting against the baseline, then all that are slower than it."""
    gains: list[Pair] = []
    slower: dict[str, list[Pair]] = {}
    rivals = 0
    for setting in measured.settings:
        baseline = measured.at(setting, measured.baseline)
        others = [row for row in measured.timed(setting, one) if row.backend != measured.baseline]
        if not baseline or not baseline.number(f"{one}/time") or not others:
            continue
        rivals += 1
        pairs = [_pair(setting, row, baseline, one) for row in others]
        gains += [pair for pair in pairs[:1] if pair.ratio > 1 and _word(measured, pair, one) == "faster"]
        for pair in pairs:
            if pair.ratio < 1 and _word(measured, pair, one) == "slower":
                slower.setdefault(pair.row.backend, []).append(pair)
    figure, notes = measured.figure(one), {"one": words(f"pass.{one}"), "baseline": measured.baseline}
    if gains:
        ends = [pick(gains, key=lambda pair: pair.ratio) for pick in (min, max)]
        least, most = (_span(measured, pair, one) for pair in ends)
        low, high = (pair.row for pair in ends)
        numbers = {**least.numbers("least"), **most.numbers("most"), "settings": float(len(gains)), "of": float(rivals)}
        key = "gain.point" if rivals == 1 else "gain" if len(gains) > 1 else "gain.once"
        yield words.finding(
            key, figure, numbers, least=words.span(least), most=words.span(most), low=low.backend, high=high.backend,
            at_low=measured.where(low), at_high=measured.where(high), count=len(gains), rivals=rivals, **notes,
        )  # fmt: skip
    elif rivals:
        yield words.finding("gain.none", figure, {"of": float(rivals)}, rivals=rivals, **notes)
    if slower:
        worst = sorted(
            (min(pairs, key=lambda pair: pair.ratio) for pairs in slower.values()), key=lambda pair: pair.ratio
        )
        spans = {pair.row.backend: _span(measured, pair, one).inverse() for pair in worst}  # how many times its time
        text = words.several(words("part.slower", backend=name, count=len(slower[name]), span=words.span(span))
                             for name, span in spans.items())  # fmt: skip
        numbers = {key: value for name, span in spans.items() for key, value in span.numbers(name).items()}
        yield words.finding("slower", figure, numbers, backends=text, **notes)


def _word(measured: Measured, pair: Pair, one: str) -> str:
    return measured.word(pair.setting, pair.row.backend, pair.other, one)


def _span(measured: Measured, pair: Pair, one: str) -> Span:
    return measured.span(pair.setting, pair.row.backend, pair.other, one)
