"""Which pair of a run folder, and whether auto, beats its best single backend, and may one say so: a line for each.

python scripts/pairs_against_singles.py runs/seed/pairs [--metric forward_backward/time] [--json FILE]
"""

import argparse
import json
import statistics
from itertools import groupby
from pathlib import Path

from attn_lab.records.reading import records
from attn_lab.records.record import Record
from attn_lab.records.stats.noise_floor import noise_floor
from attn_lab.records.stats.verdict import compare_times
from attn_lab.report.compare import order


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--metric", default="forward_backward/time")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = records(asked.folder).records
    kept = []
    for setting, group in groupby(sorted(rows, key=order), key=lambda row: row.setting):
        told = compared(list(group), asked.metric)
        kept += [{"setting": dict(setting), "metric": asked.metric, **each} for each in told]
        print(f"{asked.metric} at {', '.join(f'{name}={value}' for name, value in setting)}")
        for each in told:
            print(f"  {each['backend']:28} {each['ms']:8.4f} ms  {each['against']}")
    if asked.json:
        asked.json.write_text(json.dumps(kept, indent=1))


def compared(rows: list[Record], metric: str) -> list[dict[str, object]]:
    """Every backend that came out ok in all rounds, the fastest first; pairs and auto held against the best single."""
    floor = noise_floor(rows, metric)
    rounds: dict[str, list[Record]] = {}
    for row in rows:
        if not row.is_aa_repeat:
            rounds.setdefault(row.backend, []).append(row)
    times = {name: statistics.median(time for row in each if (time := row.number(metric)) is not None)
             for name, each in rounds.items() if all(row.status == "ok" for row in each)}  # fmt: skip
    chosen = [name for name in times if "+" in name or name == "auto"]
    best = min(times.keys() - set(chosen), key=times.__getitem__, default=None)
    told: list[dict[str, object]] = []
    for name in sorted(times, key=times.__getitem__):
        verdict = compare_times(rounds[name], rounds[best], metric, floor) if best and name in chosen else None
        said = (
            f"{verdict} of {best}'s speed: {verdict.word}; {floor}" if verdict else "the best single" * (name == best)
        )
        told.append({"backend": name, "ms": times[name], "against": said, "ratio": verdict and verdict.ratio,
                     "low": verdict and verdict.low, "high": verdict and verdict.high,
                     "word": verdict and verdict.word, "best_single": best})  # fmt: skip
    failed = {name: each for name, each in rounds.items() if name not in times}
    for name, each in failed.items():
        row = next(row for row in each if row.status != "ok")
        print(f"  {name}: {row.status}: {'; '.join(row.reasons)}")
    return told


if __name__ == "__main__":
    main()
