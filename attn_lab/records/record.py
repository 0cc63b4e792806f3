"""One case's outcome: the one shape of a record in memory, and its line in `records.jsonl`."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, get_args

from attn_lab.records.artifacts import File
from attn_lab.records.samples import read_samples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attn_lab.records.broken import BrokenLines

SCHEMA = 2
ID_DIGITS = 12
Status = Literal["ok", "unsupported", "incorrect", "oom", "error", "timeout", "crashed"]
STATUSES: tuple[str, ...] = get_args(Status)
STATUS_COLOURS = dict.fromkeys(STATUSES, "red") | {"ok": "green"}  # on a terminal
STATUS_COLOURS |= dict.fromkeys(("unsupported", "oom", "timeout"), "yellow")
PASSES = ("forward", "backward", "forward_backward", "train_step")
AXES = ("batch_size", "seq_len", "num_heads", "emb_dim")
AGAIN = " (again)"
NO_METRIC = {"value": None, "unit": "", "low": None, "high": None, "samples": 1, "note": ""}
LARGEST = 1e300  # a number beyond it is treated as absent: its square overflows


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number measured by a probe.  `low` and `high` are p05 and p95 of the samples where there are several."""

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    samples: int = 1
    note: str = ""
    series: Sequence[float] = field(default=(), repr=False)  # all samples in the order they were taken

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("value", "unit", "low", "high", "samples", "note")}


class Provenance(TypedDict):
    """Where a number comes from.  Every key is required: no number without it."""

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str
    dirty: bool
    config: Mapping[str, Any]
    started: str  # ISO 8601, UTC
    sweep: str  # the invocation of `attn-lab` that made it
    command: str  # its command line


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """One case's outcome.  `case` holds id, question, backend, mask, subject, round, is_aa_repeat, shape.

    Metrics are keyed `PASS/WHAT`.  Artifacts are {kind, path in the run folder, size in bytes}; of a file that was too
    large the path is null, and a note says so.  `series` (raw samples by metric) and `files` are not serialised: the
    store writes them beside the record and lists them among the artifacts.  A record that was read has its `folder`.
    """

    case: Mapping[str, Any]
    status: str  # one of STATUSES
    provenance: Provenance
    reasons: Sequence[str] = field(default_factory=list)
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    artifacts: Sequence[Mapping[str, Any]] = ()
    series: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)
    files: Sequence[File] = ()
    folder: Path | None = None
    label: str = ""  # what a report calls the backend where its name alone is ambiguous
    broken: "BrokenLines | None" = field(default=None, repr=False)  # where unreadable samples are counted

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}; got {self.status!r}")
        if missing := Provenance.__required_keys__ - self.provenance.keys():
            raise ValueError(f"provenance: expected {', '.join(sorted(missing))} as well")

    @property
    def id(self) -> str:
        return str(self.case["id"])

    @property
    def question(self) -> str:
        """The digest of the configuration alone; the id also covers machine, versions and source."""
        return str(self.case.get("question", self.id))

    @property
    def backend(self) -> str:
        """The label: unlike `name` it marks an A/A repeat, and may carry the backend's options."""
        return self.label or f"{self.case['backend']}{AGAIN * self.is_aa_repeat}"

    @property
    def name(self) -> str:
        """The backend without the mark of an A/A repeat."""
        return self.backend.removesuffix(AGAIN) if self.is_aa_repeat else self.backend

    @property
    def mask(self) -> str:
        return str(self.case["mask"])

    @property
    def subject(self) -> str:
        return str(self.case["subject"])

    @property
    def round(self) -> int:
        return int(self.case["round"])

    @property
    def is_aa_repeat(self) -> bool:
        """Whether this is the A/A repeat of the baseline: the ratio of the two is the run's noise."""
        return bool(self.case.get("is_aa_repeat"))

    @property
    def shape(self) -> Mapping[str, Any]:
        shape: Mapping[str, Any] = self.case["shape"]
        return shape

    @property
    def packages(self) -> dict[str, Any]:
        """Versions of installed packages, without the `source` and `table` in which two backends may differ."""
        return {name: value for name, value in self.provenance["versions"].items() if name not in ("source", "table")}

    @property
    def machine(self) -> str:
        return str(self.provenance["machine"].get("name") or self.provenance["machine"].get("device") or "unknown")

    def number(self, metric: str, part: str = "value") -> float | None:
        """A metric's value, low or high; None where it is absent, not finite, or the case is not ok."""
        if self.status != "ok" or metric not in self.metrics:
            return None
        return finite(self.metrics[metric].get(part))

    def note(self, metric: str) -> str:
        """A metric's note, empty where there is none."""
        return str(self.metrics.get(metric, {}).get("note") or "")

    def samples(self, metric: str) -> "NDArray[np.float64] | None":
        """A metric's raw samples in the order they were taken; None where there are none or the case is not ok."""
        return self._samples.get(metric) if self.status == "ok" else None

    @cached_property
    def _samples(self) -> "Mapping[str, NDArray[np.float64]]":
        return read_samples(self.folder, self.artifacts, self.broken) if self.folder else {}

    @cached_property
    def fields(self) -> dict[str, Any]:
        """All that a fair comparison holds fixed; shape fields that only repeat others are left out."""
        shape = {name: value for name, value in self.shape.items() if value is not None}
        derived = {"num_kv_heads": shape["num_heads"], "seq_len_kv": shape["seq_len"]}
        derived["head_dim"] = shape["emb_dim"] / shape["num_heads"]
        shape = {name: value for name, value in shape.items() if name not in derived or derived[name] != value}
        own = {f"{group}.{name}": value for group, name, value in self.own_options()}
        return {**shape, "mask": self.mask, "subject": self.subject, **own, "machine": self.machine}

    def own_options(self) -> list[tuple[str, str, Any]]:
        """(group, name, value) of options like `mask.window`: two windows are two questions under one mask name.

        The usual inputs are left out, as in records from before there were others.
        """
        found = []
        for group in ("subject", "mask"):
            options = self.provenance["config"].get(group)
            for name, value in options.items() if isinstance(options, Mapping) else ():
                usual = (group, name, value) == ("subject", "inputs", "randn")
                if isinstance(value, int | float | str) and name[:1] != "_" and not usual:
                    found.append((group, name, value))
        return found

    @cached_property
    def setting(self) -> tuple[tuple[str, Any], ...]:
        return tuple(sorted(self.fields.items()))

    @property
    def shape_text(self) -> str:
        """`16×1024×32×2048 float16`: batch, sequence, heads, embedding; then what is not derived from them."""
        more = {"kv_heads": "num_kv_heads", "kv_len": "seq_len_kv", "head_dim": "head_dim"}
        words = ["×".join(str(self.shape[axis]) for axis in AXES), str(self.shape.get("dtype") or "")]
        words += [f"{word}={self.fields[name]}" for word, name in more.items() if name in self.fields]
        return " ".join(filter(None, words))

    def labelled(self, label: str) -> "Record":
        """The same record under another label."""
        return replace(self, label=label)

    def as_json(self) -> dict[str, Any]:
        """The plain values of the record's line.  Numbers that are not finite become null."""
        case = {**self.case, "question": self.question, "is_aa_repeat": self.is_aa_repeat}
        metrics = {name: {**NO_METRIC, **metric} for name, metric in self.metrics.items()}
        plain = {"schema": SCHEMA, "case": case, "status": self.status, "reasons": self.reasons,
                 "metrics": metrics, "provenance": self.provenance, "artifacts": self.artifacts}  # fmt: skip
        return {key: _finite(value) for key, value in plain.items()}

    def line(self) -> str:
        """The record as one line of JSON, newline included."""
        return json.dumps(self.as_json(), separators=(",", ":"), allow_nan=False) + "\n"


class Logger(Protocol):
    """A destination of records.  The first argument a logger's YAML does not give is the run folder."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


def digest(value: Any) -> str:
    """12 hex digits of a hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:ID_DIGITS]


def finite(value: Any) -> float | None:
    """A JSON value as a number; None for anything else, NaN and infinity included."""
    if type(value) is not float and type(value) is not int:  # a bool is no number
        return None
    return float(value) if abs(value) < LARGEST else None  # false for NaN as well


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
