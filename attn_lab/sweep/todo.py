"""attn-lab plan: of each case of a sweep, whether it is done, stale or to do, and why; nothing is run or written."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from attn_lab.run.resume import CaseStatus

STYLES = {"done": "green", "stale": "yellow", "todo": "bold"}


def show(standings: Sequence[CaseStatus], folder: Path, console: Console) -> None:
    width = max((len(each.case.label) for each in standings), default=0)
    for each in standings:
        line = Text.assemble(
            (each.state.ljust(6), STYLES[each.state]), each.case.label.ljust(width + 2), (each.why, "dim")
        )
        console.print(line, soft_wrap=True)
    counts = Counter(each.state for each in standings)
    told = ", ".join(f"{counts[state]} {state}" for state in STYLES)
    console.print(Text(f"{len(standings)} case{'s' * (len(standings) != 1)}: {told} ({folder})"), soft_wrap=True)
