"""The dispatch table: the backend measured as fastest, by bucket of requests; JSON, read without torch."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from attn_lab.core.errors import BadRequest
from attn_lab.nn.auto.bucket import Bucket
from attn_lab.nn.auto.table_file import loaded, read_text

SCHEMA = 1
SHIPPED = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Ranking:
    """`ms` by backend, in the order to prefer them; `why` says what the first is ahead of, and how sure that is."""

    ms: Mapping[str, float]
    why: str = ""

    @property
    def first(self) -> str:
        return next(iter(self.ms))


@dataclass(frozen=True)
class Entry:
    """A bucket's ranking by pass, the shapes it comes from, and the unsupported backends with their reasons."""

    passes: Mapping[str, Ranking]
    measured: tuple[str, ...] = ()
    could_not: Mapping[str, str] = field(default_factory=dict)


class Found(NamedTuple):
    bucket: Bucket
    entry: Entry
    exact: bool


@dataclass(frozen=True)
class DispatchTable:
    """Rankings by bucket, of one GPU (or processor); `made` says of what records, commit, versions and when."""

    gpu: str
    entries: Mapping[Bucket, Entry] = field(repr=False)
    made: Mapping[str, Any] = field(default_factory=dict, repr=False)
    any_gpu: bool = False
    source: str = "a table"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "DispatchTable":
        """Raises BadRequest for a file that is not there, or is no table."""
        try:
            return cls.parsed(read_text(path), source=str(path))
        except OSError as error:
            raise BadRequest(f"table {path}: expected a file of attn-lab tune; got {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            why = str(error) or type(error).__name__
            raise BadRequest(f"table {path}: expected a table of attn-lab tune; got {why}") from None

    @classmethod
    def parsed(cls, text: str, *, source: str) -> "DispatchTable":
        """Raises ValueError for what is no table."""
        plain = loaded(text, SCHEMA)
        entries = {}
        for each in plain["buckets"]:
            bucket = Bucket(**{one.name: each[one.name] for one in fields(Bucket)})
            passes = {name: Ranking(ms=dict(one["ms"]), why=one["why"]) for name, one in each["passes"].items()}
            entries[bucket] = Entry(passes, tuple(each["measured"]), dict(each["could_not"]))
        return cls(gpu=plain["gpu"], entries=entries, made=dict(plain["made"]), source=source)

    @cached_property
    def text(self) -> str:
        """As it is kept: JSON, a bucket after the other, the same for the same records."""
        buckets = [
            {
                **{one.name: getattr(bucket, one.name) for one in fields(Bucket)},
                "passes": {name: {"take": ranking.first, "why": ranking.why, "ms": dict(ranking.ms)}
                           for name, ranking in entry.passes.items()},
                "measured": list(entry.measured),
                "could_not": dict(entry.could_not),
            }
            for bucket, entry in sorted(self.entries.items())
        ]  # fmt: skip
        document = {"schema": SCHEMA, "gpu": self.gpu, "made": dict(self.made), "buckets": buckets}
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    @cached_property
    def digest(self) -> str:
        """8 hex digits of a hash of all it says."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]

    def write(self, path: Path) -> None:
        """Whole or not at all, also with concurrent writers."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}-{os.getpid()}")
        fresh.write_text(self.text, encoding="utf-8")
        os.replace(fresh, path)

    def on_any_gpu(self) -> "DispatchTable":
        """The same, to be followed on a GPU that it was not made on, too."""
        return replace(self, any_gpu=True)

    def unsupported_reasons(self, gpu: str) -> list[str]:
        """Why it may not be followed on this GPU."""
        if self.any_gpu or gpu == self.gpu:
            return []
        cure = "backend.any_gpu=true, or DispatchTable.on_any_gpu() in Python, follows it all the same"
        return [f"table {self.source}: made on {self.gpu}; this is {gpu} ({cure})"]

    def find(self, requested: Bucket, one: str) -> Found | None:
        """The bucket of this question, or else the nearest, that knows the pass; None if none is comparable."""
        known = [bucket for bucket, entry in self.entries.items() if one in entry.passes]
        near = min(known, key=lambda bucket: (bucket.far(requested), bucket), default=None)
        if near is None or math.isinf(near.far(requested)):
            return None
        return Found(near, self.entries[near], near == requested)


@cache
def shipped(gpu: str) -> DispatchTable | None:
    """The table that came with this package for this GPU."""
    tables = [DispatchTable.read(file) for file in sorted(SHIPPED.glob("*.json"))]
    return next((replace(table, source=f"shipped for {gpu}") for table in tables if table.gpu == gpu), None)
