"""The findings page: what the numbers say in sentences, and the seed study's nine claims, each held against them."""

from collections import Counter
from collections.abc import Iterator

from attn_lab.report.data import ReportData
from attn_lab.report.findings import Finding
from attn_lab.report.render.blocks import Block, Bullets, Cell, Head, Heading, Table, Text

title = "page_findings"
VERDICTS = ("holds", "fails", "untested")
KINDS = {"holds": "ok", "fails": "incorrect", "untested": "unsupported"}  # as they look


def render(data: ReportData) -> Iterator[Block]:
    rest = [each for each in data.findings if not each.key.startswith("fastest")]  # those open the overview
    if rest:
        yield Bullets([(each.text, each.figure) for each in rest])
    examined = data.claims
    if examined:
        counts: Counter[str] = Counter(each.verdict or "untested" for each in examined)
        texts = [f"{data.words[verdict]} {counts[verdict]}" for verdict in VERDICTS if counts[verdict]]
        yield Heading(data.words["claims"])
        yield Text(data.say("claims_how", counts=data.words["list_comma"].join(texts)), "note")
        yield _table(data, examined)


def _table(data: ReportData, examined: list[Finding]) -> Table:
    heads = [Head(data.words[name]) for name in ("claim", "verdict", "what_numbers_say", "figure")]
    rows = [
        [Cell(each.key.removeprefix("claim."), place),
         Cell(data.words[each.verdict or "untested"], kind=KINDS[each.verdict or "untested"]),
         Cell(each.text, kind="prose"), Cell(each.figure and "↗", hover=each.figure, link=each.figure)]
        for place, each in enumerate(examined)
    ]  # fmt: skip
    return Table(data.words["claims"], heads, rows)
