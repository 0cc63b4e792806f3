"""A case that some run folder has a record of, found by its id."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from attn_lab.core.errors import BadRequest

LEAST = 4  # characters of an id that will do, where only one case begins with them


class Kept(NamedTuple):
    """The newest whole record of a case, as JSON, and the run folder it lies in."""

    folder: Path
    record: Mapping[str, Any]


def found(asked: str, folders: Sequence[Path]) -> Kept:
    """The case whose id is, or begins with, `asked`; of several folders that have it, from the one written last.

    Without folders, those under runs/ are looked through.  Raises BadRequest for none, and for several cases.
    """
    places = list(folders) or sorted({file.parent for file in Path("runs").glob("**/records.jsonl")})
    for place in places:
        if not (place / "records.jsonl").is_file():
            raise BadRequest(f"expected a run folder with a records.jsonl; got {place}")
    by_id: dict[str, Kept] = {}
    if len(asked) >= LEAST:
        places.sort(key=lambda place: (place / "records.jsonl").stat().st_mtime_ns)
        for place in places:
            by_id |= {one.record["case"]["id"]: one for one in _records(place) if _is(one.record, asked)}
    where = ", ".join(map(str, places)) or "runs/, where nothing is"
    if not by_id:
        raise BadRequest(f"expected the id of a case, or its first {LEAST} characters or more; got {asked!r}, which no "
                         f"record has in {where}")  # fmt: skip
    if len(by_id) > 1:
        raise BadRequest(f"expected the id of one case; {asked!r} begins those of {', '.join(sorted(by_id))}")
    return next(iter(by_id.values()))


def _is(record: Mapping[str, Any], asked: str) -> bool:
    return str(record["case"]["id"]).startswith(asked)


def _records(place: Path) -> Iterator[Kept]:
    with (place / "records.jsonl").open("rb") as lines:
        for line in lines:
            try:
                record = json.loads(line)
                record["case"]["id"]
            except (ValueError, TypeError, KeyError):  # torn, or foreign; a report tells of such lines
                continue
            yield Kept(place, record)
