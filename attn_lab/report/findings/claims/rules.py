"""What counts as holding: a figure of ours against one of the study's, which gave one or two digits and no spread.

Every test is of the whole 95 % interval: inside what counts as holding, it holds; outside, it fails; across the border,
nothing is said.  Growth is beyond the noise floor or it is none.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from attn_lab.report.findings.finding import Span

NEAR = 1.25  # as fast, as much: within a quarter, on another GPU; the choice of a backend stays the same
HARDLY = 1.25  # less than a quarter along a whole axis is hardly growth; what is worth tuning, or much better, is more
LITTLE = 0.25  # grows little: by a quarter of what the other grows by, or less; both are drawn on one picture's scale
SAVED = (0.45, 0.95)  # "50 to 90 %", read off a picture to the nearest ten
FULL = 0.80  # of a device's memory: from there on an allocator has to look for room
Outcome = Literal["holds", "fails", "untested"]


class Examined(NamedTuple):
    """What became of a claim, in what figures of ours, and where those are drawn.

    `told` is a key of the catalogue under `ours`, `said` what its words are filled with.
    """

    outcome: Outcome
    sentence: str
    named_values: Mapping[str, object]
    numbers: Mapping[str, float]
    figure: str


def within(span: Span, low: float, high: float) -> Outcome:
    if low <= span.low and span.high <= high:
        return "holds"
    return "fails" if span.high < low or span.low > high else "untested"


def near(span: Span, claimed: float) -> Outcome:
    return within(span, claimed / NEAR, claimed * NEAR)


def above(span: Span, edge: float) -> Outcome:
    return "holds" if span.low > edge else "fails" if span.high <= edge else "untested"


def below(span: Span, edge: float) -> Outcome:
    return "holds" if span.high <= edge else "fails" if span.low > edge else "untested"


def exactly(value: float) -> Span:
    return Span(value, value, value)


def every(outcomes: Iterable[Outcome]) -> Outcome:
    """Of a claim about both: it fails with one, and holds only with all."""
    found = list(outcomes)
    return "fails" if "fails" in found else "holds" if set(found) == {"holds"} else "untested"
