"""The study's claims at its fixed point and about every shape: 1, 2, 3, 8 and 9."""

from attn_lab.report.findings.claims.rules import (
    HARDLY,
    NEAR,
    SAVED,
    Examined,
    Outcome,
    above,
    every,
    exactly,
    near,
    within,
)
from attn_lab.report.findings.claims.study_point import FLASH, NotTested, Rivals


def speed(rivals: Rivals, one: str, claimed: float) -> Examined:
    """1: `claimed` times PyTorch's speed; holds within a quarter."""
    span = rivals.speedup(one)
    numbers = {**span.numbers("speed"), "study": claimed}
    return Examined(near(span, claimed), "speed", {"span": span, **_band(claimed)}, numbers, rivals.figure(one))


def rate(rivals: Rivals, one: str, claimed: float) -> Examined:
    """2: `claimed` times PyTorch's TFLOP/s.  Both are counted the same FLOPs, so that it is the ratio of the times."""
    span = rivals.speedup(one)
    mine, other = (row.number(f"{one}/tflops") for row in rivals.rows())
    if not mine or not other:
        raise NotTested("pass", one=one)
    numbers = {**span.numbers("rate"), FLASH: mine, rivals.torch: other, "study": claimed}
    named_values = {"span": span, "mine": mine, "other": other, **_band(claimed)}
    return Examined(near(span, claimed), "rate", named_values, numbers, rivals.figure(one))


def share_at_point(rivals: Rivals, claimed: float) -> Examined:
    """3: 14 % of PyTorch's peak memory; holds within a quarter of that."""
    rivals.rows()
    share = rivals.shares().get(rivals.setting())
    if share is None:
        raise NotTested("memory")
    outcome, numbers = near(exactly(share), claimed), {"share": share, "study": claimed}
    return Examined(outcome, "share", {"share": 100 * share, **_band(100 * claimed)}, numbers, rivals.figure("memory"))


def saved(rivals: Rivals) -> Examined:
    """3: 50 to 90 % of it saved everywhere: at every setting where both came out ok, read to the nearest ten."""
    savings = [1 - share for share in rivals.shares().values()]
    ends = (min(savings), max(savings))
    numbers = {"least": ends[0], "most": ends[1], "settings": float(len(savings))}
    named_values = {"low": 100 * ends[0], "high": 100 * ends[1], "count": len(savings),
            "least": 100 * SAVED[0], "most": 100 * SAVED[1]}  # fmt: skip
    return Examined(every(within(exactly(each), *SAVED) for each in ends), "saved", named_values, numbers, "memory")


def masked(rivals: Rivals) -> Examined:
    """8: the causal mask is handled much better: what a backend gains by leaving half of the pairs out.

    Holds where FlashAttention's gain is beyond a quarter more than PyTorch's.
    """
    rivals.rows(mask="full")
    one, settings = rivals.whole(), (rivals.setting(), rivals.setting(mask="full"))
    flash, torch = (rivals.change(name, *settings, one) for name in (FLASH, rivals.torch))
    numbers = {**flash.numbers(FLASH), **torch.numbers(rivals.torch)}
    outcome = above(flash.over(torch), HARDLY)
    named_values = {"one": one, "mine": flash, "other": torch, "edge": HARDLY}
    return Examined(outcome, "masked", named_values, numbers, rivals.figure(one))


def tight(rivals: Rivals) -> Examined:
    """9: FlashAttention where memory is tight: it needs less wherever both ran, and runs where PyTorch ran out."""
    shares = rivals.shares().values()
    out = {row.setting for row in rivals.measured.rows if row.backend == rivals.torch and row.status == "oom"}
    served = [setting for setting in out if rivals.measured.at(setting, FLASH)]
    outcome: Outcome = "holds" if max(shares) < 0.99 and len(served) == len(out) else "fails"
    numbers = {"least": min(shares), "most": max(shares), "out": float(len(out)), "served": float(len(served))}
    named_values = {"low": 100 * min(shares), "high": 100 * max(shares), "count": len(shares)}
    sentence = "tight.out" if out else "tight"
    return Examined(outcome, sentence, {**named_values, "out": len(out), "served": len(served)}, numbers, "memory")


def tuned(rivals: Rivals, axis: str) -> Examined:
    """9: tune batch_size, tune seq_len: holds where its best value has beyond a quarter more TFLOP/s than its worst."""
    values, one = rivals.along(axis), rivals.whole(axis)
    rates = {value: rivals.rows(**{axis: value})[0].number(f"{one}/tflops") or 0.0 for value in values}
    worst, best = (pick(rates, key=lambda value: rates[value]) for pick in (min, max))
    span = rivals.growth(FLASH, axis, worst, best, one, "tflops")
    named_values = {"one": one, "axis": axis, "worst": worst, "best": best, "span": span, "edge": HARDLY}
    return Examined(
        above(span, HARDLY), "tuned", named_values, span.numbers("best over worst"), rivals.figure(one, axis)
    )


def _band(claimed: float) -> dict[str, float]:
    """What counts as near it."""
    return {"least": claimed / NEAR, "most": claimed * NEAR}
