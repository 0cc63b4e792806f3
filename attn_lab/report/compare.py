"""What may be said of one row beside another: rounds pooled, ratios to a baseline, and digits worth showing."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from attn_lab.records.axes import order as order
from attn_lab.records.axes import text as text
from attn_lab.records.axes import vary as vary
from attn_lab.records.flags import NOISY
from attn_lab.records.record import AGAIN, PASSES, Record, finite

BASELINE = "naive"
WORDS = {"forward_backward": "step", "train_step": "train step"}


def disambiguate(*runs: Sequence[Record], ids: bool = False) -> list[list[Record]]:
    """Give backends of one name different labels where one run has several of them at the same setting.

    Args:
        runs: the rows of each run; a label that one run needs is used in all.
        ids: also append the case's id where rows differ in nothing that a row shows.
    Returns:
        The rows of each run, relabelled by the backend's own options: `flash2 deterministic=True`.
    """
    options: dict[Any, set[str]] = {}
    for number, rows in enumerate(runs):
        for row in rows:
            options.setdefault((number, row.setting, row.name), set()).add(_options(row))
    names = {name for (*_, name), found in options.items() if len(found) > 1}
    labelled = [[_labelled(row, _options(row)) if row.name in names else row for row in rows] for rows in runs]
    return [_with_ids(rows) for rows in labelled] if ids else labelled


def _with_ids(rows: Sequence[Record]) -> list[Record]:
    found: dict[Any, set[str]] = {}
    for row in rows:
        found.setdefault((row.setting, row.backend, row.round), set()).add(row.id)
    return [row.labelled(f"{row.backend} {row.id}")
            if len(found[row.setting, row.backend, row.round]) > 1 else row for row in rows]  # fmt: skip


def _labelled(row: Record, label: str) -> Record:
    return row.labelled(f"{row.name} {label}".strip() + AGAIN * row.is_aa_repeat)


def _options(row: Record) -> str:
    config = row.provenance["config"].get("backend")
    items = config.items() if isinstance(config, dict) else ()
    return " ".join(f"{name}={value}" for name, value in items if not name.startswith("_"))


def pooled(rows: Iterable[Record]) -> list[Record]:
    """Rounds of one case as one row: median of medians, widest low and high.  A failed round fails the case."""
    cases: dict[Any, list[Record]] = {}
    for row in rows:
        cases.setdefault((row.setting, row.backend), []).append(row)
    return [_one(rounds) for rounds in cases.values()]


def several(rows: Sequence[Record]) -> list[str]:
    """Those of them of which there are two values, and not just rows with and without."""
    return [name for name in vary(rows) if len({row.fields.get(name) for row in rows} - {None}) > 1]


def speed(row: Record) -> tuple[Any, ...]:
    """Sorts the fastest first, by the longest pass there is: one with only a forward time comes after all steps."""
    times = [row.number(f"{one}/time") for one in reversed(PASSES)]
    rank = next((rank for rank, time in enumerate(times) if time is not None), len(times))
    return rank, (*times, 0.0)[rank], row.backend, row.round


def baselines(rows: Iterable[Record], name: str = BASELINE) -> dict[Any, Record]:
    """Each setting's baseline, whatever became of it; give it pooled rows."""
    return {row.setting: row for row in rows if row.backend == name}


def memory_share(row: Record, baseline: Record | None) -> float | None:
    """The row's peak memory over the baseline's; None where they ran different passes: a forward alone holds less."""
    if baseline is None or _timed(row) != _timed(baseline):
        return None
    mine, other = row.number("memory/peak"), baseline.number("memory/peak")
    return mine / other if mine and other and mine > 0 and other > 0 else None


def missing(baseline: Record | None, name: str = BASELINE) -> str | None:
    """Why there is nothing to divide by, as an end of a sentence; None where the baseline came out ok."""
    if baseline is None:
        return f"{name} was not run here"
    return None if baseline.status == "ok" else f"{name} is {baseline.status} here"


def digits(value: float | None, significant: int = 3) -> str:
    """Three significant digits without an exponent, and every digit before the point; a dash for nothing."""
    if value is None:
        return "–"
    rounded = float(f"{value:.{significant}g}")  # first, so that 9.999 is seen to be 10.0
    places = significant - 1 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{value:.{significant - 1}e}" if places > 8 else f"{value:.{max(places, 0)}f}"


def _timed(row: Record) -> list[str]:
    return [one for one in PASSES if row.number(f"{one}/time") is not None]


def _one(rounds: Sequence[Record]) -> Record:
    failed = [row for row in rounds if row.status != "ok"]
    if failed or len(rounds) == 1:
        return (failed or rounds)[0]
    metrics: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for row in rounds for name in row.metrics):
        found = [row.metrics[name] for row in rounds if name in row.metrics]
        chosen = dict(found[0])
        middle = max if name.startswith("accuracy/") else statistics.median  # of errors the largest counts
        for part, pool in (("value", middle), ("low", min), ("high", max)):
            numbers = [number for each in found if (number := finite(each.get(part))) is not None]
            chosen[part] = pool(numbers) if numbers else None
        notes = [str(each.get("note") or "") for each in found]
        chosen["note"] = max(notes, key=lambda note: (note.startswith(NOISY), bool(note)))  # one bad round is enough
        metrics[name] = chosen
    return replace(rounds[0], metrics=metrics)
