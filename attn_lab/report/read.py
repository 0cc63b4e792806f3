"""Run folders' records.jsonl as rows that can be asked for numbers, and asked only where a case came out ok."""

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from attn_lab.bench.record import SCHEMA, STATUSES
from attn_lab.bench.series import Line, asked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

AGAIN = " (again)"
PASSES = ("forward", "backward", "forward_backward", "train_step")
AXES = ("batch_size", "seq_len", "num_heads", "emb_dim")


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One case's record, and no other's equal.  All its texts are printable: control characters arrive here escaped."""

    id: str
    backend: str
    mask: str
    subject: str
    round: int
    shape: Mapping[str, Any]
    status: str
    reasons: Sequence[str]
    metrics: Mapping[str, Mapping[str, Any]]
    provenance: Mapping[str, Any]
    question: str = ""  # the part of the id that was asked, whatever it stood on; in older records the id is just that
    twin: bool = False  # the baseline, timed again under a second label: their ratio is the run's noise
    artifacts: Sequence[Mapping[str, Any]] = ()  # files that belong to the case: {kind, path in folder, size}
    folder: Path = Path()  # where its records.jsonl lies

    @property
    def name(self) -> str:
        """The backend asked, whatever the label."""
        return self.backend.removesuffix(AGAIN) if self.twin else self.backend

    def number(self, metric: str, part: str = "value") -> float | None:
        """A metric's value, low or high; None where it is absent, not finite, or the case is not ok."""
        if self.status != "ok" or metric not in self.metrics:
            return None
        return finite(self.metrics[metric].get(part))

    def series(self, metric: str) -> "NDArray[np.float64] | None":
        """A metric's raw samples, in the order they were taken; None where none were kept or the case is not ok."""
        return self._series.get(metric) if self.status == "ok" else None

    @cached_property
    def _series(self) -> "Mapping[str, NDArray[np.float64]]":
        import numpy as np

        paths = [self.folder / str(each.get("path")) for each in self.artifacts if each.get("kind") == "samples"]
        kept: dict[str, NDArray[np.float64]] = {}
        for path in paths:
            if path.is_file():
                with np.load(path, allow_pickle=False) as file:
                    kept |= {name: file[name].astype(np.float64) for name in file.files if len(file[name])}
        return kept

    @property
    def packages(self) -> dict[str, Any]:
        """Versions of what is installed.  Not what rivals differ in: the `source` each is made of, a `plan`."""
        return {name: value for name, value in self.provenance["versions"].items() if name not in ("source", "plan")}

    @property
    def machine(self) -> str:
        return str(self.provenance["machine"].get("name") or self.provenance["machine"].get("device") or "unknown")

    @property
    def line(self) -> Line:
        """The record it was read from, as far as a row holds it."""
        named = {"id": self.id, "backend": self.name, "mask": self.mask, "subject": self.subject, "round": self.round}
        case = {**named, "shape": self.shape, "twin": self.twin}
        return {"case": case, "status": self.status, "metrics": self.metrics, "provenance": self.provenance}

    @cached_property
    def asked(self) -> dict[str, Any]:
        """All that a fair comparison holds fixed; shape fields that only repeat others are left out."""
        return asked(self.line)

    @cached_property
    def setting(self) -> tuple[tuple[str, Any], ...]:
        return tuple(sorted(self.asked.items()))

    @property
    def shape_text(self) -> str:
        """`16×1024×32×2048 float16`: batch, sequence, heads, embedding; then what is not derived from them."""
        more = {"kv_heads": "num_kv_heads", "kv_len": "seq_len_kv", "head_dim": "head_dim"}
        asked = self.asked
        words = ["×".join(str(self.shape[axis]) for axis in AXES), str(self.shape.get("dtype") or "")]
        return " ".join(filter(None, words + [f"{word}={asked[name]}" for word, name in more.items() if name in asked]))


def finite(value: Any) -> float | None:
    """A JSON value as a number; None for what is none, NaN and infinity among it."""
    if type(value) is not float and type(value) is not int:  # a bool is no number
        return None
    return float(value) if abs(value) < 1e300 else None  # false for NaN as well


class Broken(list[str]):
    """`file:line: why`, one for each line that could not be read; past MOST_NAMED only `total` goes on counting."""

    MOST_NAMED = 20
    total = 0

    def note(self, lines: Sequence[str], total: int) -> None:
        """Count `total` more broken lines, of which these are named."""
        self.total += total
        named = [*self[: self.MOST_NAMED], *lines][: self.MOST_NAMED]
        more = self.total - len(named)
        self[:] = named + [f"… and {more} more broken lines"] * bool(more)


class Reading(NamedTuple):
    rows: list[Row]
    broken: Broken


def records(
    path: str | Path | Iterable[str | Path],
    sweep: str | None = None,
    *,
    newest: bool = True,
    same: Callable[[Row], Hashable] = lambda row: row.id,
) -> Reading:
    """The rows of one or more run folders (or records files); of a case run again only the newest, unless told.

    `same` says which rows are one case.  Read as a stream: what a later line replaces is not kept.
    """
    rows: list[Row] = []
    broken = Broken()
    for one in [path] if isinstance(path, str | Path) else path:
        found = (row for row in _rows(_file(Path(one)), broken) if sweep in (None, row.provenance.get("sweep")))
        rows += _newest(found, same) if newest else found
    if newest:
        rows = list(
            {same(row): row for row in sorted(rows, key=lambda row: str(row.provenance.get("started")))}.values()
        )
    return Reading(rows, broken)


def _newest(found: Iterable[Row], same: Callable[[Row], Hashable]) -> list[Row]:
    """Of one file: the later line is the newer, whatever the clock said, and outdoes what other versions answered.

    Between files only `started` can tell, and versions may be what is compared.
    """
    latest: dict[Hashable, Row] = {}
    for row in found:
        latest.pop(same(row), None)
        latest[same(row)] = row
    answered = {(row.question, row.machine): row.id for row in latest.values()}
    return [row for row in latest.values() if answered[row.question, row.machine] == row.id]


def printable(value: Any) -> Any:
    """White space becomes one space, anything else a terminal might obey becomes its escape."""
    if isinstance(value, dict):
        return {printable(name): printable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, str) and not value.isprintable():
        value = " ".join(value.split())
        return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in value)
    return value


def _file(path: Path) -> Path:
    file = path / "records.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no records.jsonl in {path}" if path.is_dir() else f"no such run folder: {path}")
    return file


def _rows(file: Path, broken: Broken) -> Iterator[Row]:
    """Those of a run folder's shards among them, which a sweep that was killed did not take over."""
    shards = sorted(file.parent.glob("shards/*.jsonl")) if file.name == "records.jsonl" else []
    if not shards:
        yield from _rows_of(file, file.parent, broken)
        return
    every = (row for each in (file, *shards) for row in _rows_of(each, file.parent, broken))
    once = {(row.id, row.provenance.get("started")): row for row in every}
    yield from sorted(once.values(), key=lambda row: str(row.provenance.get("started")))


def _rows_of(file: Path, folder: Path, broken: Broken) -> Iterator[Row]:
    with file.open("rb") as lines:
        for count, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield _row(_plain(line), folder)
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                    why = error if type(error) is ValueError else "not a whole record"
                    broken.note([f"{printable(str(file))}:{count}: {why}"], 1)


def _plain(line: bytes) -> Any:
    """The line's JSON with all texts printable.  Where nothing is escaped and all is printable, that is how it came."""
    text = line.decode().strip()
    value = json.loads(text)
    return value if "\\" not in text and text.isprintable() else printable(value)


def _row(record: Mapping[str, Any], folder: Path) -> Row:
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema {record['schema']}, this reader knows {SCHEMA}")
    if record["status"] not in STATUSES:
        raise ValueError(f"status {record['status']!r} is none of {', '.join(STATUSES)}")
    case, provenance, metrics = record["case"], record["provenance"], record["metrics"]
    if not all(
        isinstance(one, dict)
        for one in (provenance["machine"], provenance["versions"], provenance["config"], *metrics.values())
    ):
        raise TypeError
    if not all(type(case["shape"][axis]) is int and case["shape"][axis] > 0 for axis in AXES):
        raise ValueError(f"{', '.join(AXES)} must be whole numbers above zero")
    if not isinstance(record["reasons"], list):
        raise TypeError
    plain = int | float | None
    shape = {name: value if isinstance(value, plain) else str(value) for name, value in case["shape"].items()}
    names = {name: str(case[name]) for name in ("id", "backend", "mask", "subject")}
    twin, artifacts = bool(case.get("twin", False)), record.get("artifacts", [])
    if not isinstance(artifacts, list) or not all(isinstance(each, dict) for each in artifacts):
        raise TypeError
    names["backend"] += AGAIN * twin
    return Row(
        **names,
        question=str(case.get("question", case["id"])),
        twin=twin,
        artifacts=artifacts,
        folder=folder,
        round=int(case["round"]),
        shape=shape,
        status=record["status"],
        metrics=metrics,
        reasons=[str(reason) for reason in record["reasons"]],
        provenance=provenance,
    )
