"""Rows of several machines or package versions, taken apart: nothing is held against what ran elsewhere."""

import json
from collections.abc import Sequence

from attn_lab.report.read import Row


def places(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """What may be compared, apart from what may not: one machine and one version of each package in every part.

    Each part goes by what sets it apart, nothing if there is but one.
    """
    seen: dict[str, dict[str, None]] = {}
    within: dict[tuple[str, str], set[str]] = {}  # a record names only its own backend's packages: its sweep knows more
    about = [(row, _facts(row), _sweep(row)) for row in rows]
    for _, facts, sweep in about:
        for name, value in facts.items():
            seen.setdefault(name, {})[value] = None
            within.setdefault((sweep, name), set()).add(value)
    apart = [name for name, values in seen.items() if len(values) > 1]
    found: dict[tuple[str, ...], list[Row]] = {}
    for row, facts, sweep in about:
        known = {name: within.get((sweep, name), set()) for name in apart}
        values = [facts.get(name) or (next(iter(known[name])) if len(known[name]) == 1 else "") for name in apart]
        found.setdefault(tuple(values), []).append(row)
    if len(found) <= 1:
        return [("", list(rows))]
    return [(_place(apart, values, part), part) for values, part in found.items()]


def _place(apart: Sequence[str], values: Sequence[str], rows: Sequence[Row]) -> str:
    told = [f"{name} {value}" for name, value in zip(apart, values, strict=True) if value and name != "machine.name"]
    return ", ".join([rows[0].machine, *(each.removeprefix("machine.") for each in told)])


def _facts(row: Row) -> dict[str, str]:
    machine = {f"machine.{name}": json.dumps(value) if not isinstance(value, str) else value
               for name, value in row.provenance["machine"].items()}  # fmt: skip
    return machine | {name: str(version) for name, version in row.packages.items()}


def _sweep(row: Row) -> str:
    return json.dumps([row.provenance.get("sweep"), row.provenance["machine"]], sort_keys=True, default=str)
