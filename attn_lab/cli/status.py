"""attn-lab status: of each case of a sweep, whether it is done, stale or to do, and why; nothing is run or written."""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from attn_lab.cli.parser import takes_json, takes_overrides
from attn_lab.report.terminal import Terminal
from attn_lab.run.main import plan_sweep
from attn_lab.run.resume import CaseStatus

STYLES = {"done": "green", "stale": "yellow", "todo": "bold"}


def arguments(parser: argparse.ArgumentParser) -> None:
    takes_json(parser)
    takes_overrides(parser)


def run(given: argparse.Namespace) -> int:
    plan = plan_sweep(given.overrides)
    if plan is None:  # Hydra has answered a flag of its own, such as --cfg
        return 0
    folder, statuses = plan.sweep.folder, plan.statuses
    if given.json:
        cases = [{"id": each.case.id, "state": each.state, "case": each.case.label, "why": each.why}
                 for each in statuses]  # fmt: skip
        print(json.dumps({"folder": str(folder), "cases": cases}, indent=1, ensure_ascii=False))
    else:
        _print(statuses, folder, Terminal())
    return 0


def _print(statuses: Sequence[CaseStatus], folder: Path, console: Console) -> None:
    width = max((len(each.case.label) for each in statuses), default=0)
    for each in statuses:
        line = Text.assemble(
            (f"{each.case.id}  ", "dim"), (each.state.ljust(6), STYLES[each.state]),
            each.case.label.ljust(width + 2), (each.why, "dim"),
        )  # fmt: skip
        console.print(line, soft_wrap=True)
    counts = Counter(each.state for each in statuses)
    states = ", ".join(f"{counts[state]} {state}" for state in STYLES)
    console.print(Text(f"{len(statuses)} case{'s' * (len(statuses) != 1)}: {states} ({folder})"), soft_wrap=True)
