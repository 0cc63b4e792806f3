"""A dispatch table's file read and validated: it may be another's, and every field of it is shown or followed."""

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PASSES = ("forward", "backward", "forward_backward", "train_step")
MOST_BYTES = 16 * 2**20  # that of an H100 has 60 kB
LARGEST = 2**53
LONGEST = 1000  # characters of a text
BACKEND = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\+[A-Za-z_][A-Za-z0-9_]*)?")


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a regular file, never waited for.  Raises OSError, and ValueError for what is no text of its size."""
    descriptor = os.open(Path(path), os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(22, "no regular file")
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES // 2**20} MB")
    return content.decode()


def loaded(text: str, schema: int) -> Mapping[str, Any]:
    """The plain values of a table, every field of the type it must have.  Raises ValueError, in one line."""
    plain = mapping(json.loads(text), "the whole")
    for key in ("schema", "gpu", "made", "buckets"):
        if key not in plain:
            raise ValueError(f"no {key}")
        if key == "schema" and (type(plain[key]) is not int or plain[key] != schema):
            raise ValueError(f"schema {_short(plain[key])}; this version reads {schema}")
    checked_text(plain["gpu"], "gpu")
    _check_plain(mapping(plain["made"], "made"))
    for each in listed(plain["buckets"], "buckets"):
        _check_bucket(mapping(each, "a bucket"))
    return plain


def _check_bucket(bucket: Mapping[str, Any]) -> None:
    for key in ("mask", "dtype"):
        checked_text(bucket.get(key), key)
    for key in ("head_dim", "kv_ratio", "batch_heads", "seq_len", "seq_len_kv"):
        size = bucket.get(key)
        if type(size) is not int or not 0 < size <= LARGEST:
            raise ValueError(f"{key} {_short(size)}, which is no whole number above zero")
    passes = mapping(bucket.get("passes"), "passes")
    if not passes:
        raise ValueError("a bucket without passes")
    for name, ranking in passes.items():
        if name not in PASSES:
            raise ValueError(f"a pass {_short(name)}")
        checked_text(mapping(ranking, name).get("why"), f"{name}.why")
        times = mapping(ranking.get("ms"), f"{name}.ms")
        if not times:
            raise ValueError(f"{name} without times")
        for backend, ms in times.items():
            if not BACKEND.fullmatch(backend) or backend == "auto":
                raise ValueError(f"{name}.ms of {_short(backend)}, which is no backend")
            if type(ms) not in (int, float) or not 0 < ms < LARGEST or not math.isfinite(ms):
                raise ValueError(f"{name}.ms.{backend} {_short(ms)}, which is no time")
    for shape in listed(bucket.get("measured"), "measured"):
        checked_text(shape, "measured")
    for backend, why in mapping(bucket.get("could_not"), "could_not").items():
        checked_text(backend, "could_not")
        checked_text(why, f"could_not.{backend}")


def mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} {_short(value)}, which is no mapping")
    return value


def listed(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} {_short(value)}, which is no list")
    return value


def checked_text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > LONGEST:
        raise ValueError(f"{name} {_short(value)}, which is no line of text")
    return value


def _check_plain(value: Mapping[str, Any]) -> None:
    """Texts at any depth are printable."""
    left: list[Any] = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list):
            left += each
        elif isinstance(each, str):
            checked_text(each, "made")


def _short(value: Any) -> str:
    return repr(value)[:60]
