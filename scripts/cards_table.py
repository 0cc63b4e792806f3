"""Cases a minute of one card and of several, and whether a case beside others is what it is alone.

python scripts/cards_table.py alone-0 all     where runs/NAME and NAME.seconds are (scripts/evidence/cards makes them)
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path

import numpy as np

from attn_lab.records.reading import records
from attn_lab.records.record import Record
from attn_lab.records.stats.noise_floor import noise_floor
from attn_lab.report.pages.gpu_state import late

METRICS = ("forward/time", "backward/time", "forward_backward/time")
UNSURE = 2.0  # %
Pairs = Iterable[tuple[Record, Record]]


def card(row: Record) -> str:
    return row.provenance["machine"].get("uuid", "")


def begun(row: Record) -> float:
    return datetime.fromisoformat(row.provenance["started"]).timestamp()


def ended(row: Record) -> float:
    return begun(row) + row.metrics["case/seconds"]["value"]


def rates(name: str, rows: Sequence[Record]) -> dict[str, float]:
    """Cases a minute: of the whole command, from the first's begin to the last's end, and after each card's first."""
    cards = [list(group) for _, group in groupby(sorted(rows, key=lambda row: (card(row), begun(row))), card)]
    first = max(ended(row) for row, *_ in cards)
    last = min(ended(own[-1]) for own in cards)
    steady = [row for own in cards for row in own[1:] if first <= ended(row) <= last]
    found = {
        "the whole command": len(rows) / float(Path(f"{name}.seconds").read_text()),
        "at work": len(rows) / (max(map(ended, rows)) - min(map(begun, rows))),
        "while all work, after the first case of each": len(steady) / (last - first),
    }
    ok = sum(row.status == "ok" for row in rows)
    told = ", ".join(f"{60 * each:.1f} {what}" for what, each in found.items())
    print(f"! {name}: {ok} of {len(rows)} cases ok on {len(cards)} card(s); cases a minute: {told}")
    certain = [row.number(f"{metric.partition('/')[0]}/precision") or 0.0 for row in rows for metric in METRICS]
    unsure = f"{sum(each > UNSURE for each in certain)} of {len(certain)} medians are less certain than ±{UNSURE:g} %"
    counted = "{late} calls were late, beside {calls} that count, in {passes} of {all} passes".format(**late(rows))
    print(f"! {name}: {unsure}, the least ±{max(certain):.1f} %; {counted}")
    return found


def apart(metric: str, pairs: Pairs, what: str, floor: float) -> None:
    """How far the second of each pair is from the first."""
    numbers = [(a, b) for left, right in pairs if (a := left.number(metric)) and (b := right.number(metric))]
    off = 100 * np.array([b / a - 1 for a, b in numbers])
    if numbers:
        print(f"! {metric} {what}: median {np.median(off):+.2f} %, 95 % within {np.quantile(np.abs(off), 0.95):.2f} %, "
              f"{sum(np.abs(off) > 100 * floor)} of {len(off)} past the floor of {100 * floor:.2f} %")  # fmt: skip


def same(left: Sequence[Record], right: Sequence[Record]) -> Pairs:
    cases = {row.id: row for row in left}
    return [(cases[row.id], row) for row in right if row.id in cases]


def twins(rows: Sequence[Record]) -> Pairs:
    others = {(row.setting, row.name, row.round): row for row in rows if row.is_aa_repeat}
    return [
        (row, other)
        for row in rows
        if not row.is_aa_repeat and (other := others.get((row.setting, row.name, row.round)))
    ]


def main(names: Sequence[str]) -> None:
    rows = {name: records(f"runs/{name}").records for name in names}
    rate = {name: rates(name, rows[name]) for name in names}
    *alone, together = names
    for name in alone:
        told = ", ".join(f"{rate[together][what] / each:.2f}x {what}" for what, each in rate[name].items())
        print(f"! {together} against {name}: {told}")
    for metric in METRICS:
        for name in alone:
            floor = noise_floor(rows[name], metric).share
            (own,) = {card(row) for row in rows[name]}
            beside = [row for row in rows[together] if card(row) == own]
            apart(metric, twins(rows[name]), f"{name}, its baseline twice", floor)
            apart(metric, same(rows[name], beside), f"the same card beside others against {name}", floor)
            if name != alone[0]:
                apart(metric, same(rows[alone[0]], rows[name]), f"{name} against {alone[0]}", floor)


if __name__ == "__main__":
    main(sys.argv[1:])
