"""Which rows tell one story: those of one experiment, those along one axis, those at one point."""

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from attn_lab.report import compare
from attn_lab.report.read import AXES, Row


class Family(NamedTuple):
    """Pooled rows along `axis`, or, where that is None, at one point."""

    axis: str | None
    rows: list[Row]
    place: int  # its number among the families of this axis in the whole report, from 1

    @property
    def anchor(self) -> str:
        """`seq_len`, `seq_len-2`, `point`: how its figures are named."""
        return f"{self.axis or 'point'}{f'-{self.place}' if self.place > 1 else ''}"

    @property
    def held(self) -> str:
        """What it holds fixed."""
        varying = compare.vary(self.rows)
        return compare.text(self.rows[0], [name for name in self.rows[0].asked if name not in varying])

    @property
    def moving(self) -> list[str]:
        """What moves with its axis."""
        return [name for name in compare.vary(self.rows) if name != self.axis]


def families(rows: Sequence[Row], taken: dict[str | None, int]) -> list[Family]:
    """Every pooled row in at least one family: along each axis it is swept over, or else at its point.

    `taken` counts the families there are already, and is updated.
    """
    found: list[Family] = []
    told: set[frozenset[int]] = set()

    def add(axis: str | None, family: list[Row]) -> None:
        taken[axis] = taken.get(axis, 0) + 1
        found.append(Family(axis, family, taken[axis]))

    for axis in AXES:
        for family in along(rows, axis):
            # Two axes that move together make one family: telling it twice would look like two results.
            if (members := frozenset(map(id, family))) not in told:
                told.add(members)
                add(axis, family)
    placed = {each for members in told for each in members}
    points: dict[object, list[Row]] = {}
    for row in sorted((row for row in rows if id(row) not in placed), key=compare.order):
        points.setdefault(row.setting, []).append(row)
    for point in points.values():
        add(None, point)
    return found


def along(rows: Sequence[Row], axis: str) -> list[list[Row]]:
    """Rows that differ in one axis (and what moves with it), wherever it takes more than one value."""
    asked = [(row, row.asked) for row in rows]
    names = sorted({name for _, one in asked for name in one} - {axis})
    context = ["machine", "subject", "mask", "dtype"]
    held = []
    for name in names:
        places: dict[object, set[object]] = {}
        for _, one in asked:
            places.setdefault((one[axis], *(one.get(word) for word in context)), set()).add(one.get(name))
        # A field with one value at each place of the axis moves with it: emb_dim where head_dim was given.
        if name in context or any(len(values) > 1 for values in places.values()):
            held.append(name)
    found: dict[object, list[Row]] = {}
    for row, one in asked:
        found.setdefault(tuple(one.get(name) for name in held), []).append(row)
    several = [family for family in found.values() if len({row.shape[axis] for row in family}) > 1]
    return [sorted(family, key=compare.order) for family in several]


def experiment_of(row: Row) -> str | None:
    """The experiment a row's sweep was named for, if it is one of ours; a file may hold the sweeps of several."""
    named = re.sub(r"-\d{8}-\d{6}-\d+$", "", str(row.provenance.get("sweep")))
    return next((name for name in _questions() if name.replace("/", "-") == named), None)


def question_of(experiment: str) -> str:
    """What an experiment's file says it asks; nothing where it is none of ours."""
    return _questions().get(experiment, "")


@cache
def _questions() -> dict[str, str]:
    conf = Path(str(resources.files("attn_lab.conf") / "experiment"))
    found = {}
    for path in sorted(conf.rglob("*.yaml")):
        header = re.search(r"# Question: (.*?)\n#\s*Command", path.read_text(encoding="utf-8"), re.DOTALL)
        name = str(path.relative_to(conf).with_suffix(""))
        found[name] = re.sub(r"\s*\n#\s*", " ", header[1]).strip() if header else ""
    return found
