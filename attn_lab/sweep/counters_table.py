"""Nsight's counters as a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from attn_lab.report import compare
from attn_lab.sweep.counters import brief_name


def counters_table(content: Sequence[Mapping[str, Any]]) -> Table:
    """A column for each kernel that was counted."""
    columns = table("counter", *(f"{each['pass']} {brief_name(each['name'])}" for each in content), right=())
    for name in dict.fromkeys(name for each in content for name in each["counters"]):
        values = [each["counters"].get(name) for each in content]
        columns.add_row(name, *("–" if each is None else compare.digits(each) for each in values))
    return columns


def table(*heads: str, right: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index in right else "left", overflow="fold")
    return table
