"""One sentence of a report: its words in a language, the numbers it rests on, and the figure that shows them."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from attn_lab.records.stats.verdict import WIDEST, decimals, rough
from attn_lab.report.compare import digits
from attn_lab.report.locales.i18n import catalogue


class Finding(NamedTuple):
    """`verdict` is a claim's alone; `figure` is the id of a figure or page of the HTML report."""

    key: str
    text: str
    verdict: Literal["holds", "fails", "untested"] | None
    figure: str
    numbers: Mapping[str, float]


class Span(NamedTuple):
    """A ratio and its 95 % interval; `noisy` if it rests on a time that is marked so."""

    ratio: float
    low: float
    high: float
    noisy: bool = False

    def times(self, factor: float) -> "Span":
        return Span(self.ratio * factor, self.low * factor, self.high * factor, self.noisy)

    def inverse(self) -> "Span":
        return Span(1 / self.ratio, 1 / self.high, math.inf if self.low == 0 else 1 / self.low, self.noisy)

    def over(self, other: "Span") -> "Span":
        """The quotient of two that were measured apart: their errors add as squares do."""
        ratio, noisy = self.ratio / other.ratio, self.noisy or other.noisy
        if math.isinf(self.high) or math.isinf(other.high):
            return Span(ratio, 0.0, math.inf, noisy)
        down = math.hypot(math.log(self.ratio / self.low), math.log(other.high / other.ratio))
        up = math.hypot(math.log(self.high / self.ratio), math.log(other.ratio / other.low))
        return Span(ratio, ratio * math.exp(-down), ratio * math.exp(up), noisy)

    def numbers(self, name: str) -> dict[str, float]:
        return {name: self.ratio, f"{name}/low": self.low, f"{name}/high": self.high}


class Words:
    """The catalogue of one language, and how numbers and lists are written in it; `place` goes before sentences."""

    def __init__(self, language: str, place: str = ""):
        self._words = catalogue("findings", language)
        self.place = place

    def __call__(self, key: str, **values: object) -> str:
        return self._words[key].format(**values)

    def sentence(self, key: str, **values: object) -> str:
        """With what the rows have in common before it, where there is more than one such place."""
        notes = self(key, **values)
        return self("part.place", place=self.place, sentence=notes) if self.place else notes

    def finding(self, key: str, figure: str, numbers: Mapping[str, float], **values: object) -> Finding:
        return Finding(key, self.sentence(key, **values), None, figure, numbers)

    def all(self, items: Iterable[str]) -> str:
        return self("part.comma").join(items)

    def several(self, items: Iterable[str]) -> str:
        """Of items that may hold commas themselves."""
        return self("part.semicolon").join(items)

    def span(self, span: Span, unit: str = "×") -> str:
        """`15.7× (15.6–15.8)`: no more digits than the interval supports, and three at most; with its mark, if any."""
        texts = self._span(span, unit)
        return self("part.noisy", span=texts) if span.noisy else texts

    def _span(self, span: Span, unit: str) -> str:
        if span.low == span.high:
            return self.number(span.ratio) + unit
        if math.isinf(span.high):
            return self("part.no_interval", value=digits(span.ratio, 2) + unit)
        if span.high > WIDEST * span.low:
            ratio, low, high = map(rough, span[:3])
            return self("part.interval", value=ratio + unit, low=low, high=high)
        most = max(2 - math.floor(math.log10(span.ratio)), 0)
        places = min(decimals(*span[:3]), most)
        value, low, high = (f"{number:.{places}f}" for number in span[:3])
        return self("part.interval", value=value + unit, low=low, high=high)

    def number(self, value: float) -> str:
        return digits(value, 3 if value >= 10 else 2)

    def percent(self, share: float) -> str:
        return f"{digits(100 * share, 2)} %"

    def range(self, low: float, high: float, unit: str = " %") -> str:
        ends = [digits(low, 2), digits(high, 2)]
        return "–".join(dict.fromkeys(ends)) + unit
