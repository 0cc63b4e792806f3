"""What is kept of one case: one JSON object, one line of `records.jsonl`, the truth all else is made from."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, get_args

from attn_lab.bench.files import File

SCHEMA = 1
Status = Literal["ok", "refused", "wrong", "oom", "error", "timeout", "crashed"]
STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number seen by a probe.  `low` and `high` are p05 and p95 of the samples where there are several."""

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    samples: int = 1
    note: str = ""
    series: Sequence[float] = field(default=(), repr=False)  # all samples, as taken; kept beside the record

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("value", "unit", "low", "high", "samples", "note")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a number comes from.  Every field is required: no number without it."""

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str
    dirty: bool
    config: Mapping[str, Any]
    started: str  # ISO 8601, UTC
    sweep: str  # the run of `attn-lab` that made it
    command: str  # what was typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One case's outcome.  `case` holds id, question, backend, mask, subject, round, twin, shape.

    Metrics are keyed `PASS/WHAT`.  `series` are the raw samples of some metrics, by name, and `files` what probes left;
    whoever keeps the record puts both in the run's folder and names them among the `artifacts`, each {kind, path in the
    run's folder, size in bytes}; of a file that was too large the path is null, and a note says so.
    """

    case: Mapping[str, Any]
    status: Status
    provenance: Provenance
    reasons: list[str] = field(default_factory=list)
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    artifacts: Sequence[Mapping[str, Any]] = ()
    series: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)
    files: Sequence[File] = ()

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}; got {self.status!r}")

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "case": dict(self.case),
            "status": self.status,
            "reasons": self.reasons,
            "metrics": {name: dict(metric) for name, metric in self.metrics.items()},
            "provenance": asdict(self.provenance),
            "artifacts": [dict(artifact) for artifact in self.artifacts],
        }

    def line(self) -> str:
        """The record as one line of JSON, newline included.  Numbers that are not finite become null."""
        return json.dumps(_finite(self.as_json()), separators=(",", ":"), allow_nan=False) + "\n"


class Logger(Protocol):
    """Somewhere a record is put.  The first argument a logger's YAML does not give is the run folder."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
