"""Backends of one name that were run with several options of their own, told apart by those."""

from collections.abc import Sequence
from dataclasses import replace

from attn_lab.report.read import AGAIN, Row


def disambiguate(runs: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """The runs' rows; where one run has a backend with several options, they stand behind its name in all."""
    several: set[str] = set()
    for rows in runs:
        options: dict[str, set[str]] = {}
        for row in rows:
            options.setdefault(row.name, set()).add(_options(row))
        several |= {name for name, found in options.items() if len(found) > 1}
    return [[_labelled(row) if row.name in several else row for row in rows] for rows in runs]


def _labelled(row: Row) -> Row:
    return replace(row, backend=f"{row.name} {_options(row)}".strip() + AGAIN * row.twin)


def _options(row: Row) -> str:
    config = row.provenance["config"].get("backend")
    items = config.items() if isinstance(config, dict) else ()
    return " ".join(f"{name}={value}" for name, value in items if not name.startswith("_"))
