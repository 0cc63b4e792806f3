"""Rows of several machines or package versions, taken apart: nothing is held against what ran elsewhere."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attn_lab.records.record import Record


def places(rows: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """What may be compared, apart from what may not: one machine and one version of each package in every part
    (the cards of a sweep are one machine).

    Each part goes by what sets it apart, nothing if there is but one.
    """
    seen: dict[str, dict[str, None]] = {}
    within: dict[tuple[str, str], set[str]] = {}  # a record names only its own backend's packages: its sweep knows more
    about = [
        (row, _facts(row, machine), _sweep(row, machine)) for row, machine in zip(rows, machines(rows), strict=True)
    ]
    for _, facts, sweep in about:
        for name, value in facts.items():
            seen.setdefault(name, {})[value] = None
            within.setdefault((sweep, name), set()).add(value)
    apart = [name for name, values in seen.items() if len(values) > 1]
    found: dict[tuple[str, ...], list[Record]] = {}
    for row, facts, sweep in about:
        known = {name: within.get((sweep, name), set()) for name in apart}
        values = [facts.get(name) or (next(iter(known[name])) if len(known[name]) == 1 else "") for name in apart]
        found.setdefault(tuple(values), []).append(row)
    if len(found) <= 1:
        return [("", list(rows))]
    return [(_place(apart, values, list(found), part), part) for values, part in found.items()]


def _place(
    apart: Sequence[str], mine: Sequence[str], all_values: Sequence[Sequence[str]], rows: Sequence[Record]
) -> str:
    """Its name; and of two places of one name what else sets them apart."""
    machine = apart.index("machine.name") if "machine.name" in apart else None
    alike = [values for values in all_values if machine is None or values[machine] == mine[machine]]
    text = [f"{name.removeprefix('machine.')} {mine[at]}" for at, name in enumerate(apart)
            if mine[at] and len({values[at] for values in alike}) > 1]  # fmt: skip
    return ", ".join([rows[0].machine, *text])


def _facts(row: Record, machine: Mapping[str, Any]) -> dict[str, str]:
    facts = {f"machine.{name}": json.dumps(value) if not isinstance(value, str) else value
             for name, value in machine.items()}  # fmt: skip
    return facts | {name: str(version) for name, version in row.packages.items()}


def _sweep(row: Record, machine: Mapping[str, Any]) -> str:
    return json.dumps([row.provenance.get("sweep"), machine], sort_keys=True, default=str)


def machines(rows: Sequence[Record]) -> list[Mapping[str, Any]]:
    """Of each row the machine it names; its `uuid` are those of all cards that shared a sweep with its own.

    A sweep deals shapes and rounds to whichever card is free, and rivals of a round to the same: to tell its cards
    apart would tear a curve to blocks, and compare nothing that it does not compare anyway.
    """
    shared: dict[str, set[str]] = {}  # by sweep, and all else that is known of the machine
    for row in rows:
        if uuid := row.provenance["machine"].get("uuid"):
            shared.setdefault(_but_for_uuid(row), set()).add(uuid)
    groups: list[set[str]] = []
    for cards in shared.values():
        met = [group for group in groups if group & cards]
        groups = [group for group in groups if group not in met] + [cards.union(*met)]
    text = {card: ", ".join(sorted(group)) for group in groups for card in group}
    named = [row.provenance["machine"] for row in rows]
    return [{**machine, "uuid": text[machine["uuid"]]} if machine.get("uuid") else machine for machine in named]


def _but_for_uuid(row: Record) -> str:
    rest = {name: value for name, value in row.provenance["machine"].items() if name != "uuid"}
    return json.dumps([row.provenance.get("sweep"), rest], sort_keys=True, default=str)
