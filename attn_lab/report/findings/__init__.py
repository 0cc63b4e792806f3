"""What the numbers say, in sentences: found freely, and the seed study's nine claims examined one by one.

`findings` and `claims` take the rows of one run or of several, as read, rounds apart.  Rows of two machines, or of two
versions of a package, are described one after the other and never compared.  Who asks for both lays the
rows out once: `sentences` and `check_claims` take what `partition` returns.

A claim holds, fails or is untested by rules that `claims/rules.py` states, and each rule says for itself in
`claims/point.py` and `claims/axes.py`.  They are about FlashAttention v2, backend `flash2`: where only another fused
backend was run they are untested, and say which was.
"""

from collections.abc import Sequence

from attn_lab.records.record import Record
from attn_lab.report.compare import BASELINE
from attn_lab.report.findings.claims.nine import examined
from attn_lab.report.findings.comparability import places
from attn_lab.report.findings.costs import costs
from attn_lab.report.findings.data_quality import apart, conduct
from attn_lab.report.findings.finding import Finding, Words
from attn_lab.report.findings.measurements import Measured
from attn_lab.report.findings.trends import trends
from attn_lab.report.findings.winners import winners

__all__ = ["Finding", "check_claims", "claims", "findings", "partition", "sentences"]

Parts = Sequence[tuple[str, Measured]]


def findings(rows: Sequence[Record], language: str = "en", baseline: str = BASELINE) -> list[Finding]:
    """Sentences about these rows, the winners first, each with the numbers it rests on."""
    return sentences(partition(rows, baseline), language)


def claims(rows: Sequence[Record], language: str = "en", baseline: str = BASELINE) -> list[Finding]:
    """The study's nine claims, part by part, with `baseline` for its PyTorch; once for each place."""
    return check_claims(partition(rows, baseline), language)


def partition(rows: Sequence[Record], baseline: str) -> Parts:
    """What may be compared, by what sets it apart."""
    return [(place, Measured(part, baseline)) for place, part in places(rows)]


def sentences(parts: Parts, language: str) -> list[Finding]:
    found = [apart(Words(language), [place for place, _ in parts])] if len(parts) > 1 else []
    for place, measured in parts:
        words = Words(language, place)
        for tell in (winners, costs, trends, conduct):
            found += tell(measured, words)
    return found


def check_claims(parts: Parts, language: str) -> list[Finding]:
    return [each for place, measured in parts for each in examined(measured, Words(language, place))]
