"""Lines through a sweep: the cases of one backend that differ in one number, in the order of that number."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

AXES = ("batch_size", "seq_len", "num_heads", "emb_dim")  # told first, where several numbers vary
CONTEXT = ("machine", "subject", "mask", "dtype")
DRAWN_AFRESH = ("round", "seed", "twin")  # the same question, asked again

Line = Mapping[str, Any]  # a record, as one line of records.jsonl holds it


class Series(NamedTuple):
    """`points` hold the axis, what moves with it, and each metric by its name; `held` is all else that was asked.

    `noisy` names the numbers that bear that mark: `forward/time at 512`.
    """

    backend: str
    axis: str
    moving: tuple[str, ...]
    held: Mapping[str, Any]
    options: Mapping[str, Any]  # the resolved configuration but for the shape and what is on the axis
    points: Sequence[Mapping[str, float]]
    noisy: Sequence[str]


def asked(line: Line) -> dict[str, Any]:
    """All that a fair comparison holds fixed; shape fields that only repeat others are left out."""
    case, provenance = line["case"], line["provenance"]
    shape = {name: value for name, value in case["shape"].items() if value is not None}
    derived = {"num_kv_heads": shape["num_heads"], "seq_len_kv": shape["seq_len"]}
    derived["head_dim"] = shape["emb_dim"] / shape["num_heads"]
    shape = {name: value for name, value in shape.items() if name not in derived or derived[name] != value}
    machine = provenance["machine"]
    own = {f"{group}.{name}": value for group, name, value in _own(provenance["config"])}
    told = {"mask": case["mask"], "subject": case["subject"], **own}
    return {**shape, **told, "machine": str(machine.get("name") or machine.get("device") or "unknown")}


def noisy(line: Line) -> list[str]:
    """The metrics whose note says so: wherever such a number is shown, that is."""
    return [name for name, metric in line["metrics"].items() if str(metric.get("note")).startswith("noisy:")]


def series(lines: Iterable[Line]) -> list[Series]:
    """One a backend and family; none where nothing varies.  Rounds are pooled, twins left out, only ok has numbers."""
    newest = {line["case"]["id"]: line for line in lines if not line["case"].get("twin")}
    rows = [(line, asked(line)) for line in newest.values()]
    found = [one for axis, moving, family in _families(rows) for one in _of_family(axis, moving, family)]
    alike: dict[Any, set[str]] = {}
    for one in found:
        alike.setdefault(one.backend, set()).add(_text(one.options.get("backend")))
    return [one._replace(backend=_told(one)) if len(alike[one.backend]) > 1 else one for one in found]


Row = tuple[Line, dict[str, Any]]


def _families(rows: Sequence[Row]) -> Iterator[tuple[str, tuple[str, ...], list[Row]]]:
    """(axis, what moves with it, rows) wherever a number takes more than one value while all else stays."""
    names = list(dict.fromkeys([*AXES, *(name for _, one in rows for name in one)]))
    varying = [name for name in names if len({_value(row, name) for row in rows}) > 1]
    told: set[frozenset[str]] = set()
    for axis in varying:
        moving = [name for name in varying if name not in (axis, *CONTEXT) and _moves(name, axis, rows)]
        held = [name for name in varying if name != axis and name not in moving]
        groups: dict[Any, list[Row]] = {}
        for row in rows:
            groups.setdefault(tuple(_value(row, name) for name in held), []).append(row)
        for family in groups.values():
            ids = frozenset(line["case"]["id"] for line, _ in family)
            # Two axes that move together make one family: telling it twice would look like two results.
            if _varies(axis, family) and ids not in told:
                told.add(ids)
                yield axis, tuple(name for name in moving if _varies(name, family)), family


def _varies(name: str, rows: Sequence[Row]) -> bool:
    """A number, in all of the rows, and not the same one."""
    values = {_value(row, name) for row in rows}
    return len(values) > 1 and all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


def _moves(name: str, axis: str, rows: Sequence[Row]) -> bool:
    """One value at each place of the axis: emb_dim, where head_dim was given and num_heads varies."""
    places: dict[Any, set[Any]] = {}
    for row in rows:
        places.setdefault(tuple(_value(row, each) for each in (axis, *CONTEXT)), set()).add(_value(row, name))
    return all(len(values) == 1 for values in places.values())


def _of_family(axis: str, moving: tuple[str, ...], family: Sequence[Row]) -> Iterator[Series]:
    backends: dict[Any, dict[float, list[Row]]] = {}
    on_it = (axis, *moving)
    for row in sorted(family, key=lambda row: _value(row, axis)):
        backend = row[0]["case"]["backend"], _text(_options(row[0], on_it))
        backends.setdefault(backend, {}).setdefault(_value(row, axis), []).append(row)
    for (backend, _), places in backends.items():
        points = [
            {axis: place, **{name: _value(rounds[0], name) for name in moving}, **numbers}
            for place, rounds in places.items() if (numbers := _pooled([line for line, _ in rounds]))
        ]  # fmt: skip
        if points:
            line, one = next(iter(places.values()))[0]
            held = {name: value for name, value in one.items() if name not in on_it}
            marks = dict.fromkeys(f"{name} at {point[axis]}" for point in points for line, _ in places[point[axis]]
                                  for name in noisy(line))  # fmt: skip
            yield Series(backend, axis, moving, held, _options(line, on_it), points, list(marks))


def _pooled(rounds: Sequence[Line]) -> dict[str, float]:
    """Each metric's median over the rounds, of errors the largest; nothing if any round failed."""
    if any(line["status"] != "ok" for line in rounds):
        return {}
    found: dict[str, list[float]] = {}
    for line in rounds:
        for name, metric in line["metrics"].items():
            if isinstance(metric.get("value"), int | float):
                found.setdefault(name, []).append(metric["value"])
    return {
        name: max(seen) if name.startswith("accuracy/") else statistics.median(seen) for name, seen in found.items()
    }


def _value(row: Row, name: str) -> Any:
    """Of the shape also what `asked` leaves out: a num_kv_heads that equals num_heads is a place on its axis."""
    line, one = row
    return line["case"]["shape"].get(name, one.get(name))


def _own(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """`mask.window` and the like: two windows are two questions, though the mask has one name.

    The usual inputs go without saying, as in records from before there were others.
    """
    for group in ("subject", "mask"):
        options = config.get(group)
        if isinstance(options, Mapping):
            for name, value in options.items():
                usual = (group, name, value) == ("subject", "inputs", "randn")
                if isinstance(value, int | float | str) and name[:1] != "_" and not usual:
                    yield group, name, value


def _options(line: Line, but: Sequence[str]) -> dict[str, Any]:
    config = line["provenance"]["config"]
    kept = {name: value for name, value in config.items() if name not in ("shape", *DRAWN_AFRESH)}
    for group, name, _ in _own(config):
        if f"{group}.{name}" in but:
            kept[group] = {key: value for key, value in kept[group].items() if key != name}
    return kept


def _told(one: Series) -> str:
    """The backend's name and its own options, for one that is there twice."""
    own = one.options.get("backend") or {}
    return " ".join([one.backend, *(f"{name}={value}" for name, value in own.items() if name[:1] != "_")])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
