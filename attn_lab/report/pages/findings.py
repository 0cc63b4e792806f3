"""The findings page: what the numbers say in sentences, and the study's nine claims, each held against them."""

from collections import Counter
from collections.abc import Iterator

from attn_lab.report.findings import Finding
from attn_lab.report.fragment import Bullets, Cell, Head, Heading, Piece, Table, Text
from attn_lab.report.study import Study

title = "page_findings"
VERDICTS = ("holds", "fails", "untested")
KINDS = {"holds": "ok", "fails": "wrong", "untested": "refused"}  # as they look


def render(study: Study) -> Iterator[Piece]:
    if study.findings:
        yield Bullets([(each.text, each.figure) for each in study.findings])
    else:
        yield Text(study.words["no_findings"])
    examined = study.claims
    if examined:
        counts: Counter[str] = Counter(each.verdict or "untested" for each in examined)
        told = [f"{study.words[verdict]} {counts[verdict]}" for verdict in VERDICTS if counts[verdict]]
        yield Heading(study.words["claims"])
        yield Text(study.say("claims_how", told=study.words["list_comma"].join(told)), "note")
        yield _table(study, examined)


def _table(study: Study, examined: list[Finding]) -> Table:
    heads = [Head(study.words[name]) for name in ("claim", "verdict", "what_numbers_say", "figure")]
    rows = [
        [Cell(each.key.removeprefix("claim."), place),
         Cell(study.words[each.verdict or "untested"], kind=KINDS[each.verdict or "untested"]),
         Cell(each.text, kind="prose"), Cell(each.figure and "↗", hover=each.figure, link=each.figure)]
        for place, each in enumerate(examined)
    ]  # fmt: skip
    return Table(study.words["claims"], heads, rows)
