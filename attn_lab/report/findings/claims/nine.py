"""The study's nine claims, part by part, each with the rule that examines it and the words that tell of it."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from attn_lab.report.findings.claims import axes, point
from attn_lab.report.findings.claims.rules import Examined
from attn_lab.report.findings.claims.study_point import FLASH, NotTested, Rivals
from attn_lab.report.findings.finding import Finding, Span, Words
from attn_lab.report.findings.measurements import Measured

Rule = Callable[[Rivals], Examined]
CLAIMS: Mapping[str, Rule] = {
    "1.forward": partial(point.speed, one="forward", claimed=9.0),
    "1.backward": partial(point.speed, one="backward", claimed=4.5),
    "2.forward": partial(point.rate, one="forward", claimed=10.0),
    "2.backward": partial(point.rate, one="backward", claimed=5.0),
    "3.point": partial(point.share_at_point, claimed=0.14),
    "3.everywhere": point.saved,
    "4.slower": partial(axes.grows, axis="batch_size", metric="time"),
    "4.tflops": partial(axes.grows, axis="batch_size", metric="tflops"),
    "4.more": partial(axes.gains_more, axis="batch_size"),
    "4.time": partial(axes.little_time, axis="batch_size"),
    "4.memory": partial(axes.little_memory, axis="batch_size"),
    "4.much": partial(axes.much_memory, axis="batch_size", share=0.5),
    "5.memory": partial(axes.much_memory, axis="seq_len", share=1.0),
    "5.time": partial(axes.multiplies, axis="seq_len"),
    "5.tflops": partial(axes.hardly, axis="seq_len"),
    "6.tflops": partial(axes.hardly, axis="num_heads"),
    "6.drop": axes.drops,
    "6.full": axes.full,
    "7.tflops": partial(axes.grows, axis="emb_dim", metric="tflops"),
    "7.more": partial(axes.gains_more, axis="emb_dim"),
    "8": point.masked,
    "9.tight": point.tight,
    "9.batch_size": partial(point.tuned, axis="batch_size"),
    "9.seq_len": partial(point.tuned, axis="seq_len"),
}


def examined(measured: Measured, words: Words) -> Iterator[Finding]:
    rivals = Rivals(measured)
    names = {"flash": FLASH, "torch": rivals.torch}
    for name, rule in CLAIMS.items():
        try:
            rivals.check()
            found = rule(rivals)
        except NotTested as missing:
            found = Examined("untested", "", {}, {}, "support")
            ours = words(f"why.{missing.why}", **names, **_formatted(words, missing.values))
        else:
            ours = words(f"ours.{found.sentence}", **names, **_formatted(words, found.named_values))
            if found.outcome == "untested":
                ours = words("why.border", ours=ours)
        text = words.sentence("part.claim", number=name[0], claim=words(f"claim.{name}"), ours=ours,
                              verdict=words(f"verdict.{found.outcome}"))  # fmt: skip
        yield Finding(f"claim.{name}", text, found.outcome, found.figure, found.numbers)


def _formatted(words: Words, values: Mapping[str, Any]) -> dict[str, str]:
    """Each value as it is written: spans with their interval, passes and memory by their names."""
    return {name: _one(words, name, value) for name, value in values.items()}


def _one(words: Words, name: str, value: Any) -> str:
    if isinstance(value, Span):
        return words.span(value, " %" if name == "share" else "×")
    if name in ("least", "most", "edge", "times", "others"):
        return f"{value:.3g}"
    if name in ("one", "what"):
        return words(f"pass.{value}")
    if isinstance(value, list):
        return words.all(value) or "–"
    return words.number(value) if isinstance(value, float) else str(value)
