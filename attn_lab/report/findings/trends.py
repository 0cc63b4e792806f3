"""How time grows along a swept axis, and where along it two backends change places."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

from attn_lab.records.record import PASSES, Record
from attn_lab.records.stats.fit import Exponent, fit_exponent
from attn_lab.report import compare
from attn_lab.report.findings.finding import Finding, Words
from attn_lab.report.findings.measurements import Measured

BENT = 1.0  # an exponent whose interval is wider than this is none: the curve is bent, or has too few points


def exponent(rows: Sequence[Record], axis: str, metric: str) -> Exponent | None:
    """The power of the axis by which one backend's times grow; None of fewer than three points."""
    pairs = sorted((float(row.shape[axis]), time) for row in rows if (time := row.number(metric)))
    return fit_exponent([place for place, _ in pairs], [time for _, time in pairs])


def trends(measured: Measured, words: Words) -> Iterator[Finding]:
    """Along each axis of the family that has most cases: a full grid has dozens, too many to read."""
    for axis, families in measured.axes.items():
        family = max(families, key=len)
        texts = axis
        if len(families) > 1:
            texts = words("part.family", axis=axis, held=_held(measured, family), count=len(families))
        timed = [one for one in PASSES if any(row.number(f"{one}/time") for row in family)]
        for one in timed[-1:]:
            yield from _scaling(words, family, axis, texts, one)
        for one in timed:
            yield from _crossings(measured, words, family, axis, texts, one)


def _held(measured: Measured, family: Sequence[Record]) -> str:
    """What sets a family apart from others along the same axis."""
    moving = compare.vary(family)
    return compare.text(family[0], [name for name in measured.varying if name not in moving])


def _scaling(words: Words, family: Sequence[Record], axis: str, axis_text: str, one: str) -> Iterator[Finding]:
    found: dict[str, Exponent] = {}
    for name in sorted({row.backend for row in family}):
        fitted = exponent([row for row in family if row.backend == name], axis, f"{one}/time")
        if fitted:
            found[name] = fitted
    if not found:
        return
    ordered = sorted(found.items(), key=lambda item: -item[1].value)
    straight = [words("part.exponent", backend=name, last=f"{each.last:.1f}", **_formatted(each))
                for name, each in ordered if each.high - each.low <= BENT]  # fmt: skip
    bent = words.all(name for name, each in ordered if each.high - each.low > BENT)
    numbers = {f"{name}/{part}": value for name, each in found.items() for part, value in each._asdict().items()}
    ends = [row.shape[axis] for row in family if row.backend in found]
    yield words.finding(
        "scaling" if straight else "scaling.bent", "scaling", numbers, one=words(f"pass.{one}"), axis=axis_text,
        first=min(ends), last=max(ends), backends=words.several(straight), bent=bent,
        also=words("part.bent", bent=bent) if bent else "",
    )  # fmt: skip


def _formatted(fitted: Exponent) -> dict[str, str]:
    places = 2 if fitted.high - fitted.low < 0.2 else 1
    return {part: f"{getattr(fitted, part):.{places}f}".replace("-", "−") for part in ("value", "low", "high")}


def _crossings(
    measured: Measured, words: Words, family: Sequence[Record], axis: str, axis_text: str, one: str
) -> Iterator[Finding]:
    """Pairs of which each is clearly the faster somewhere: one up to a value, the other from a larger one on."""
    passed: dict[str, list[str]] = {}
    numbers: dict[str, float] = {}
    points: dict[int, dict[str, Record]] = {}
    for row in family:
        if row.number(f"{one}/time"):
            points.setdefault(row.shape[axis], {})[row.backend] = row
    for pair in combinations(sorted({row.backend for row in family}), 2):
        both = {value: rows for value, rows in sorted(points.items()) if pair[0] in rows and pair[1] in rows}
        times = [[rows[name].number(f"{one}/time") or 0.0 for name in pair] for rows in both.values()]
        if len({mine < other for mine, other in times}) < 2:
            continue  # the same is in front everywhere: no verdict can change that
        notes = {value: measured.word(rows[pair[0]].setting, *pair, one) for value, rows in both.items()}
        clear = [(value, word) for value, word in notes.items() if word in ("faster", "slower")]
        changes = [(old, new) for old, new in pairwise(clear) if old[1] != new[1]]
        if len(changes) == 1:
            (old, word), (new, _) = changes[0]
            ahead, behind = pair if word == "faster" else pair[::-1]
            passed.setdefault(behind, []).append(words("part.passed", ahead=ahead, old=old, new=new))
            for value in (old, new):
                span = measured.span(both[value][ahead].setting, behind, ahead, one)
                numbers |= span.numbers(f"{behind} over {ahead} at {value}")
    if passed:
        texts = words.several(
            words("part.crossing", behind=name, passed=words.all(each)) for name, each in passed.items()
        )
        figure = f"figures-{axis}-{one}"
        yield words.finding("crossing", figure, numbers, one=words(f"pass.{one}"), axis=axis_text, changes=texts)
