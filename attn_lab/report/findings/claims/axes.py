"""The study's claims about its axes, 4 to 7: what grows with batch_size, seq_len, num_heads and emb_dim."""

from collections.abc import Sequence

from attn_lab.report.findings.claims.rules import FULL, HARDLY, LITTLE, Examined, Outcome, above, below, every, exactly
from attn_lab.report.findings.claims.study_point import FLASH, NotTested, Rivals
from attn_lab.report.findings.finding import Span

HEADS = 32  # where the study saw PyTorch drop


def grows(rivals: Rivals, axis: str, metric: str) -> Examined:
    """4, 7: both take longer, or reach more TFLOP/s, at the axis's end than at its start, beyond the noise floor."""
    values, one = rivals.along(axis), rivals.whole(axis)
    mine, other = (rivals.growth(name, axis, values[0], values[-1], one, metric) for name in (FLASH, rivals.torch))
    outcome = every(above(span, rivals.edge(one)) for span in (mine, other))
    return _both(rivals, axis, one, outcome, metric, mine, other)


def hardly(rivals: Rivals, axis: str) -> Examined:
    """5, 6: nowhere along the axis is either a quarter above the TFLOP/s it starts with."""
    (first, *later), one = rivals.along(axis), rivals.whole(axis)
    spans = [
        [rivals.growth(name, axis, first, value, one, "tflops") for value in later] for name in (FLASH, rivals.torch)
    ]
    mine, other = (max(each, key=lambda span: span.ratio) for each in spans)
    return _both(rivals, axis, one, every(below(span, HARDLY) for span in (mine, other)), "highest", mine, other)


def gains_more(rivals: Rivals, axis: str) -> Examined:
    """4, 7: FlashAttention gains more: its speed-up over PyTorch is larger at the axis's end than at its start."""
    values, one = rivals.along(axis), rivals.whole(axis)
    start, end = (rivals.speedup(one, **{axis: value}) for value in (values[0], values[-1]))
    numbers = {**start.numbers("first"), **end.numbers("last")}
    named_values = {"one": one, **_ends(rivals, axis), "start": start, "end": end}
    return Examined(above(end.over(start), rivals.edge(one)), "gains", named_values, numbers, rivals.figure(one, axis))


def little_time(rivals: Rivals, axis: str) -> Examined:
    """4: its time grows by a quarter of what PyTorch's grows by, or less."""
    values, one = rivals.along(axis), rivals.whole(axis)
    first, last = ([row.number(f"{one}/time") or 0.0 for row in rivals.rows(**{axis: values[at]})] for at in (0, -1))
    # The end is far above the start: the interval of the share is that of the ratio at the end.
    end = rivals.speedup(one, **{axis: values[-1]}).inverse()
    return _little(
        rivals, axis, first, last, Span(1.0, end.low / end.ratio, end.high / end.ratio, end.noisy), one, "ms"
    )


def little_memory(rivals: Rivals, axis: str) -> Examined:
    """4: the same of its peak memory."""
    peaks = rivals.peaks(axis)
    return _little(rivals, axis, peaks[min(peaks)], peaks[max(peaks)], exactly(1.0), "memory", "MB")


def _little(
    rivals: Rivals, axis: str, first: Sequence[float], last: Sequence[float], spread: Span, what: str, unit: str
) -> Examined:
    mine, other = (end - start for start, end in zip(first, last, strict=True))
    if mine <= 0 or other <= 0:
        raise NotTested("flat", axis=axis)
    share = spread.times(mine / other)
    named_values = {
        "what": what, "unit": unit, "edge": 100 * LITTLE, **_ends(rivals, axis), "mine": mine, "other": other,
        "share": share.times(100), "times": last[0] / first[0], "others": last[1] / first[1],
    }  # fmt: skip
    return Examined(below(share, LITTLE), "little", named_values, share.numbers("share"), rivals.figure(what, axis))


def multiplies(rivals: Rivals, axis: str) -> Examined:
    """5: PyTorch's time grows by more than the axis does."""
    values, one = rivals.along(axis), rivals.whole(axis)
    span = rivals.growth(rivals.torch, axis, values[0], values[-1], one)
    return _beside_the_axis(rivals, axis, span, 1.0, one)


def much_memory(rivals: Rivals, axis: str, share: float) -> Examined:
    """4, 5: PyTorch's peak memory grows by more than `share` of what the axis does: much; multiplies, where it is 1."""
    peaks = rivals.peaks(axis)
    return _beside_the_axis(rivals, axis, exactly(peaks[max(peaks)][1] / peaks[min(peaks)][1]), share, "memory")


def _beside_the_axis(rivals: Rivals, axis: str, span: Span, share: float, what: str) -> Examined:
    values = rivals.along(axis)
    times = values[-1] / values[0]
    named_values = {"what": what, **_ends(rivals, axis), "span": span, "times": times}
    numbers = {**span.numbers("growth"), "axis": times}
    return Examined(above(span, share * times), "torch", named_values, numbers, rivals.figure(what, axis))


def drops(rivals: Rivals) -> Examined:
    """6: at 32 heads PyTorch's TFLOP/s are below those at the next fewer, beyond the noise floor."""
    axis = "num_heads"
    values, one = rivals.along(axis), rivals.whole(axis)
    fewer = [value for value in values if value < HEADS]
    if HEADS not in values or not fewer:
        raise NotTested("heads", heads=HEADS)
    span = rivals.growth(rivals.torch, axis, fewer[-1], HEADS, one, "tflops")
    named_values = {"one": one, "fewer": fewer[-1], "heads": HEADS, "span": span}
    return Examined(
        below(span, 1 / rivals.edge(one)), "drops", named_values, span.numbers("change"), rivals.figure(one, axis)
    )


def full(rivals: Rivals) -> Examined:
    """6: ... as memory is nearly full: PyTorch's peak at the point, 32 heads, is at least four fifths of it."""
    row = rivals.rows()[1]
    peak, size = row.number("memory/peak"), row.provenance["machine"].get("memory")
    if not peak or not size:
        raise NotTested("memory")
    share = peak * 2**20 / float(size)
    named_values = {"heads": HEADS, "peak": peak, "share": 100 * share, "edge": 100 * FULL}
    numbers = {"share": share, "peak": peak}
    return Examined(above(exactly(share), FULL), "full", named_values, numbers, rivals.figure("memory"))


def _both(rivals: Rivals, axis: str, one: str, outcome: Outcome, sentence: str, mine: Span, other: Span) -> Examined:
    named_values = {"one": one, **_ends(rivals, axis), "mine": mine, "other": other, "edge": HARDLY}
    numbers = {**mine.numbers(FLASH), **other.numbers(rivals.torch)}
    return Examined(outcome, sentence, named_values, numbers, rivals.figure(one, axis))


def _ends(rivals: Rivals, axis: str) -> dict[str, object]:
    values = rivals.along(axis)
    return {"axis": axis, "first": values[0], "last": values[-1]}
