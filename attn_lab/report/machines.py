"""On which machine a row was made, where cards that worked on one sweep are one machine."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attn_lab.records.record import Record as Row


def machines(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """Of each row the machine it names; its `uuid` are those of all cards that shared a sweep with its own.

    A sweep deals shapes and rounds to whichever card is free, and rivals of a round to the same: to tell its cards
    apart would tear a curve to pieces, and compare nothing that it does not compare anyway.
    """
    shared: dict[str, set[str]] = {}  # by sweep, and all else that is known of the machine
    for row in rows:
        if uuid := row.provenance["machine"].get("uuid"):
            shared.setdefault(_but_for_uuid(row), set()).add(uuid)
    groups: list[set[str]] = []
    for cards in shared.values():
        met = [group for group in groups if group & cards]
        groups = [group for group in groups if group not in met] + [cards.union(*met)]
    told = {card: ", ".join(sorted(group)) for group in groups for card in group}
    named = [row.provenance["machine"] for row in rows]
    return [{**machine, "uuid": told[machine["uuid"]]} if machine.get("uuid") else machine for machine in named]


def _but_for_uuid(row: Row) -> str:
    rest = {name: value for name, value in row.provenance["machine"].items() if name != "uuid"}
    return json.dumps([row.provenance.get("sweep"), rest], sort_keys=True, default=str)
