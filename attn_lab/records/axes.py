"""Records that lie along one axis: those that differ in one number (and what moves with it), in its order."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from attn_lab.records.flags import noisy
from attn_lab.records.record import AXES, Record, finite

CONTEXT = ("machine", "subject", "mask", "dtype")
REPEATS = ("round", "seed", "is_aa_repeat")  # keys of a configuration that ask the same question again


class Family(NamedTuple):
    """Records along `axis`, or, where that is None, at one point."""

    axis: str | None
    rows: list[Record]
    place: int  # its number among the families of this axis in the whole report, from 1

    @property
    def anchor(self) -> str:
        """`seq_len`, `seq_len-2`, `point`: how its figures are named."""
        return f"{self.axis or 'point'}{f'-{self.place}' if self.place > 1 else ''}"

    @property
    def held(self) -> str:
        """What it holds fixed."""
        varying = vary(self.rows)
        return text(self.rows[0], [name for name in self.rows[0].fields if name not in varying])

    @property
    def moving(self) -> list[str]:
        """What moves with its axis."""
        return [name for name in vary(self.rows) if name != self.axis]


class Series(NamedTuple):
    """One backend along one axis: `points` hold the axis, what moves with it, and each metric by its name.

    `held` is all else that was asked; `noisy` names the flagged numbers: `forward/time at 512`.
    """

    backend: str
    axis: str
    moving: tuple[str, ...]
    held: Mapping[str, Any]
    options: Mapping[str, Any]  # the resolved configuration without the shape and what is on the axis
    points: Sequence[Mapping[str, float]]
    noisy: Sequence[str]


def vary(records: Sequence[Record]) -> list[str]:
    """The names in `asked` that take more than one value."""
    names = dict.fromkeys(name for record in records for name in record.fields)
    return [name for name in names if len({record.fields.get(name) for record in records}) > 1]


def order(record: Record) -> tuple[Any, ...]:
    """Sorts settings by number: 512 before 2048, and fields that not every record has do not matter."""
    fields = record.fields
    leading = [*CONTEXT, *AXES]
    names = leading + sorted(set(fields) - set(leading))
    return tuple((name, isinstance(fields.get(name), str), fields.get(name)) for name in names if name in fields)


def text(record: Record, names: Sequence[str]) -> str:
    """`seq_len 1024 · float16 · causal`: some of what was asked, numbers with their names, words by themselves."""
    fields = [(name, record.fields[name]) for name in names if name in record.fields]
    return " · ".join(value if isinstance(value, str) else f"{name} {value}" for name, value in fields)


def along(records: Sequence[Record], axis: str) -> list[list[Record]]:
    """Records that differ in one axis (and what moves with it), wherever it takes more than one value."""
    held = [name for name in sorted({name for each in records for name in each.fields} - {axis})
            if name in CONTEXT or not _moves(name, axis, records)]  # fmt: skip
    found: dict[object, list[Record]] = {}
    for each in records:
        found.setdefault(tuple(each.fields.get(name) for name in held), []).append(each)
    several = [family for family in found.values() if _is_axis(axis, family)]
    return [sorted(family, key=order) for family in several]


def families(records: Sequence[Record], counts: dict[str | None, int]) -> list[Family]:
    """Every pooled record in at least one family: along each axis it is swept over, or else at its point.

    `counts` numbers the families of each axis across calls, and is updated.
    """
    found: list[Family] = []

    def add(axis: str | None, family: list[Record]) -> None:
        counts[axis] = counts.get(axis, 0) + 1
        found.append(Family(axis, family, counts[axis]))

    lines = list(_distinct((axis, family) for axis in AXES for family in along(records, axis)))
    for axis, family in lines:
        add(axis, family)
    placed = {id(each) for _, family in lines for each in family}
    points: dict[object, list[Record]] = {}
    for each in sorted((each for each in records if id(each) not in placed), key=order):
        points.setdefault(each.setting, []).append(each)
    for point in points.values():
        add(None, point)
    return found


def series(records: Iterable[Record]) -> list[Series]:
    """One for each backend and family along any number, options among them; none where nothing varies.

    Rounds are pooled, A/A repeats left out, and only a case that is ok has numbers.
    """
    newest = list({each.id: each for each in records if not each.is_aa_repeat}.values())
    names = list(dict.fromkeys([*AXES, *(name for each in newest for name in each.fields)]))
    lines = _distinct((axis, family) for axis in names if axis not in CONTEXT for family in along(newest, axis))
    found = [one for axis, family in lines for one in _of_family(axis, family)]
    options: dict[str, set[str]] = {}
    for one in found:
        options.setdefault(one.backend, set()).add(_text(one.options.get("backend")))
    return [one._replace(backend=_label(one)) if len(options[one.backend]) > 1 else one for one in found]


def _distinct(found: Iterable[tuple[str, list[Record]]]) -> Iterator[tuple[str, list[Record]]]:
    """Two axes that move together make one family: it is listed under the first."""
    seen: set[frozenset[int]] = set()
    for axis, family in found:
        if (members := frozenset(map(id, family))) not in seen:
            seen.add(members)
            yield axis, family


def _value(record: Record, name: str) -> Any:
    """Of the shape also what `asked` leaves out: a num_kv_heads that equals num_heads is a place on its axis."""
    return record.shape.get(name, record.fields.get(name))


def _is_axis(name: str, records: Sequence[Record]) -> bool:
    """A number in all of the records, and not the same one."""
    values = {_value(each, name) for each in records}
    return len(values) > 1 and all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


def _moves(name: str, axis: str, records: Sequence[Record]) -> bool:
    """One value at each place of the axis: emb_dim, where head_dim was given and num_heads varies."""
    places: dict[Any, set[Any]] = {}
    for each in records:
        place = (_value(each, axis), *(each.fields.get(one) for one in CONTEXT))
        places.setdefault(place, set()).add(each.fields.get(name))
    return all(len(values) == 1 for values in places.values())


def _of_family(axis: str, family: Sequence[Record]) -> Iterator[Series]:
    moving = tuple(name for name in vary(family) if name != axis and _is_axis(name, family))
    backends: dict[Any, dict[float, list[Record]]] = {}
    on_it = (axis, *moving)
    for each in sorted(family, key=lambda each: _value(each, axis)):
        backend = each.name, _text(_options(each, on_it))
        backends.setdefault(backend, {}).setdefault(_value(each, axis), []).append(each)
    for (backend, _), places in backends.items():
        points = [
            {axis: place, **{name: _value(rounds[0], name) for name in moving}, **numbers}
            for place, rounds in places.items() if (numbers := _pooled(rounds))
        ]  # fmt: skip
        if points:
            first = next(iter(places.values()))[0]
            held = {name: value for name, value in first.fields.items() if name not in on_it}
            flagged = dict.fromkeys(f"{name} at {point[axis]}" for point in points for each in places[point[axis]]
                                    for name in noisy(each))  # fmt: skip
            yield Series(backend, axis, moving, held, _options(first, on_it), points, list(flagged))


def _pooled(rounds: Sequence[Record]) -> dict[str, float]:
    """Each metric's median over the rounds, of errors the largest; nothing if any round failed."""
    if any(each.status != "ok" for each in rounds):
        return {}
    found: dict[str, list[float]] = {}
    for each in rounds:
        for name, metric in each.metrics.items():
            if (value := finite(metric.get("value"))) is not None:
                found.setdefault(name, []).append(value)
    return {
        name: max(seen) if name.startswith("accuracy/") else statistics.median(seen) for name, seen in found.items()
    }


def _options(record: Record, but: Sequence[str]) -> dict[str, Any]:
    config = record.provenance["config"]
    left = {name: value for name, value in config.items() if name not in ("shape", *REPEATS)}
    for group, name, _ in record.own_options():
        if f"{group}.{name}" in but:
            left[group] = {key: value for key, value in left[group].items() if key != name}
    return left


def _label(one: Series) -> str:
    """The backend's name and its own options, for one that is there twice."""
    own = one.options.get("backend") or {}
    return " ".join([one.backend, *(f"{name}={value}" for name, value in own.items() if name[:1] != "_")])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
