"""Cases a minute of one card and of several, and whether a case beside others is what it is alone.

python scripts/cards_table.py alone-0 alone-1 all    in a folder with runs/NAME and NAME.seconds of each, by evidence/cards
"""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from attn_lab.report.read import Row, records
from attn_lab.report.verdict import floor_of

METRICS = ("forward/time", "backward/time", "forward_backward/time")


def uuid(row: Row) -> str:
    return row.provenance["machine"].get("uuid", "")


def rates(name: str, rows: Sequence[Row]) -> tuple[float, float]:
    """Cases a minute from the first's begin to the last's end, and of the whole command."""
    begun = [datetime.fromisoformat(row.provenance["started"]).timestamp() for row in rows]
    ended = [at + row.metrics["harness/case"]["value"] for at, row in zip(begun, rows, strict=True)]
    seconds = float(Path(f"{name}.seconds").read_text())
    work, whole = 60 * len(rows) / (max(ended) - min(begun)), 60 * len(rows) / seconds
    ok, cards = sum(row.status == "ok" for row in rows), len({uuid(row) for row in rows})
    print(f"! {name}: {ok} of {len(rows)} cases ok on {cards} card(s), {work:.1f} cases a minute at work, "
          f"{whole:.1f} of the whole command ({seconds:.1f} s)")  # fmt: skip
    return work, whole


def apart(metric: str, left: Sequence[Row], right: Sequence[Row], what: str, floor: float) -> None:
    """How far cases of the right are from the same of the left, in the metric."""
    before = {row.id: row.number(metric) for row in left}
    off = np.array([row.number(metric) / before[row.id] - 1 for row in right
                    if before.get(row.id) and row.number(metric)])  # fmt: skip
    if len(off):
        print(f"! {metric} {what}: median {100 * np.median(off):+.2f} %, 95 % within "
              f"{100 * np.quantile(np.abs(off), 0.95):.2f} %, {sum(np.abs(off) > floor)} of {len(off)} past the floor of "
              f"{100 * floor:.2f} %")  # fmt: skip


def main(names: Sequence[str]) -> None:
    rows = {name: records(f"runs/{name}").rows for name in names}
    rate = {name: rates(name, rows[name]) for name in names}
    *alone, together = names
    for name in alone:
        work, whole = (all_ / one for all_, one in zip(rate[together], rate[name], strict=True))
        print(f"! {together} against {name}: {work:.2f}x at work, {whole:.2f}x the whole command")
    for metric in METRICS:
        floors = {name: floor_of(rows[name], metric).share for name in alone}
        for name, floor in floors.items():
            (card,) = {uuid(row) for row in rows[name]}
            beside = [row for row in rows[together] if uuid(row) == card]
            apart(metric, rows[name], beside, f"beside others against {name}, the same card", floor)
        for other in alone[1:]:
            apart(metric, rows[alone[0]], rows[other], f"{other} against {alone[0]}", floors[alone[0]])


if __name__ == "__main__":
    main(sys.argv[1:])
