"""A line of `records.jsonl` decoded and validated: schema 2, and schema 1 lifted to it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from attn_lab.records import renamed
from attn_lab.records.artifacts import why_not_inside
from attn_lab.records.broken import BrokenLines
from attn_lab.records.printable import printable
from attn_lab.records.record import ID_DIGITS, LARGEST, NO_METRIC, PASSES, SCHEMA, STATUSES, Record, digest

SMALLEST = 1e-100  # a time below it is none: ratios of such overflow
HUGE = re.compile(r"\d{19}")  # what may be a whole number of more than 64 bits
NOT_WHOLE = "not a whole record"
MOST = 2**53  # beyond it a whole number is none to every reader of JSON

Count = Annotated[int, msgspec.Meta(gt=0, le=MOST)]
Number = Annotated[float, msgspec.Meta(gt=-LARGEST, lt=LARGEST)]
Whole = Annotated[int, msgspec.Meta(ge=-MOST, le=MOST)]
Plain = Whole | Number | str | bool | None
Identifier = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_-]{1,64}\Z")]  # it becomes part of a path


class _Shape(msgspec.Struct):
    batch_size: Count
    seq_len: Count
    num_heads: Count
    emb_dim: Count
    dtype: str
    num_kv_heads: Count | None = None
    seq_len_kv: Count | None = None
    head_dim: Count | None = None


class _Case(msgspec.Struct):
    id: Identifier
    question: Identifier
    backend: str
    mask: str
    subject: str
    round: Annotated[int, msgspec.Meta(ge=0, le=MOST)]
    is_aa_repeat: bool
    shape: _Shape


class _Metric(msgspec.Struct):
    value: Number | None
    unit: str
    low: Number | None
    high: Number | None
    samples: Annotated[int, msgspec.Meta(ge=0, le=MOST)]
    note: str


class _Machine(msgspec.Struct):
    device: str | None = None
    name: str | None = None
    driver: str | None = None
    uuid: str | None = None
    memory: Number | None = None
    capability: list[Whole] | None = None
    threads: Whole | None = None


class _Config(msgspec.Struct):
    passes: list[str] = []
    backend: dict[str, Any] | None = None
    mask: dict[str, Any] | None = None
    subject: dict[str, Any] | None = None
    shape: dict[str, Plain] | None = None
    measure: dict[str, Any] | None = None
    probe: dict[str, Any] | None = None


class _Provenance(msgspec.Struct):
    machine: _Machine
    versions: dict[str, Plain]
    commit: str
    dirty: bool
    config: _Config
    started: str
    sweep: str
    command: str


class _Artifact(msgspec.Struct):
    kind: str
    path: str | None
    size: Annotated[int, msgspec.Meta(ge=0, le=MOST)]
    note: str = ""


class _Line(msgspec.Struct):
    case: _Case
    status: str
    reasons: list[str]
    metrics: dict[str, _Metric]
    provenance: _Provenance
    artifacts: list[_Artifact]


def decode(line: bytes, folder: Path | None = None, broken: BrokenLines | None = None) -> Record:
    """The record of a line, all its texts printable.  Raises ValueError, in one line, for what is none."""
    try:
        text = line.decode().strip()
        raw = msgspec.json.decode(text)
        if HUGE.search(text):
            _no_huge_number(raw)
        if "\\" in text or not text.isprintable():
            raw = printable(raw)
        return record_of(raw, folder, broken)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(NOT_WHOLE) from None


def record_of(raw: Any, folder: Path | None = None, broken: BrokenLines | None = None) -> Record:
    """The record of a line's plain values.  Raises ValueError for what does not validate."""
    if not isinstance(raw, dict):
        raise ValueError(NOT_WHOLE)
    known = LIFTS.keys() | {SCHEMA}
    if not isinstance(raw.get("schema"), int) or raw["schema"] not in known:
        raise ValueError(f"schema {raw.get('schema')}, this reader knows {', '.join(map(str, sorted(known)))}")
    try:
        if lift := LIFTS.get(raw["schema"]):
            raw = lift(raw)
        line = msgspec.convert(raw, _Line)
        _check(line)
        _no_deep_value(raw["provenance"])
    except RecursionError:
        raise ValueError(NOT_WHOLE) from None
    fields = {name: raw[name] for name in _Line.__struct_fields__}
    fields["case"] = {**raw["case"], "shape": _whole(raw["case"]["shape"])}
    return Record(**fields, folder=folder, broken=broken)


def _check(line: _Line) -> None:
    """What types alone do not say."""
    if line.status not in STATUSES:
        raise ValueError(f"status {line.status!r} is none of {', '.join(STATUSES)}")
    for one in PASSES:
        time = line.metrics.get(f"{one}/time")
        for value in (time.value, time.low, time.high) if time else ():
            if value is not None and not value > SMALLEST and line.status == "ok":
                raise ValueError(f"{one}/time: expected more than 0; got {value}")
    for each in line.artifacts:
        if each.path is not None and (why := why_not_inside(each.path)):
            raise ValueError(f"artifact {each.path[:40]!r}: {why}")


def _whole(shape: Mapping[str, Any]) -> dict[str, Any]:
    """A shape with the fields that follow from others, where it does not say them: a loop's has but the four axes."""
    derived = {"num_kv_heads": shape["num_heads"], "seq_len_kv": shape["seq_len"],
               "head_dim": max(shape["emb_dim"] // shape["num_heads"], 1)}  # fmt: skip
    notes = {name: value for name, value in shape.items() if value is not None}
    return {**notes, **{name: value for name, value in derived.items() if name not in notes}}


def _no_deep_value(value: Any, levels: int = 32) -> None:
    if levels == 0:
        raise ValueError("provenance: nested too deeply")
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _no_deep_value(each, levels - 1)


def _no_huge_number(value: Any) -> None:
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _no_huge_number(each)
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("a whole number of more than 64 bits")


def _from_1(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Schema 1 has other names, and ids of 8 digits; its oldest records lack question, twin, artifacts, command."""
    case, provenance = dict(_expect(raw, "case")), dict(_expect(raw, "provenance"))
    provenance.setdefault("command", "")
    question, config = case.get("question"), provenance.get("config")
    provenance["config"] = renamed.config(config)
    if isinstance(versions := provenance.get("versions"), dict) and "plan" in versions:
        provenance["versions"] = {"table" if name == "plan" else name: each for name, each in versions.items()}
    case["is_aa_repeat"] = case.pop("twin", False)
    if question is None:
        case["question"] = case.get("id")
    elif len(str(question)) < ID_DIGITS and digest(config).startswith(str(question)):
        case["question"] = digest(provenance["config"])  # the two schemas' questions can be compared
    metrics = {renamed.metric(name): {**NO_METRIC, **metric} if isinstance(metric, dict) else metric
               for name, metric in _expect(raw, "metrics").items()}  # fmt: skip
    status = raw.get("status")
    status = renamed.STATUSES.get(status, status) if isinstance(status, str) else status
    return {"artifacts": [], **raw, "schema": SCHEMA, "case": case, "status": status, "metrics": metrics,
            "provenance": provenance}  # fmt: skip


LIFTS: Mapping[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _from_1}


def _expect(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{key}: expected an object; got {type(value).__name__}")
    return value
