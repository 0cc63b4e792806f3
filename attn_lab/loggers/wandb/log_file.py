"""A run's log as W&B writes it: LevelDB's log format after a header, protobuf within; what it names, and its end."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from attn_lab.records.printable import printable
from attn_lab.records.reading import open_regular

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record as Entry  # type: ignore[attr-defined]

HEADER = 7  # bytes that a log begins with, and bytes before each part of an entry
BLOCK = 32768
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds of part
HARMLESS = ("history", "summary", "output", "output_raw", "output_logger", "config", "stats", "alert", "telemetry",
            "metric", "run", "exit", "final", "header", "footer", "preempting", "environment")  # fmt: skip


def entries(log: Path) -> "Iterator[Entry]":
    """All entries; what a killed writer left unfinished at the end is left out.

    Raises ValueError for a log that is damaged elsewhere: another reader may find more in it.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record as Entry  # type: ignore[attr-defined]

    with open_regular(log) as file:
        data = file.read()
    if data[:4] != b":W&B"[: len(data)]:
        raise ValueError("it is no log of W&B's")
    for payload in _payloads(data):
        try:
            yield Entry.FromString(payload)
        except DecodeError:
            raise ValueError("an entry of its log is none of W&B's") from None


def _payloads(data: bytes) -> Iterator[bytes]:
    at, entry = HEADER, b""
    while len(data) - at >= HEADER:
        left = BLOCK - at % BLOCK
        if left < HEADER:  # a part's head does not straddle blocks
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part = data[at + 6 : at + HEADER + size]
        if len(data) - at < HEADER + size <= left or (not kind and not data[at:].strip(b"\0")):
            return
        checksum = int.from_bytes(data[at : at + 4], "little")
        if size > left - HEADER or kind not in (WHOLE, FIRST, MIDDLE, LAST) or zlib.crc32(part) != checksum:
            raise ValueError(f"its log is damaged at byte {at}")
        entry = part[1:] if kind in (WHOLE, FIRST) else entry + part[1:]
        at += HEADER + size
        if kind in (WHOLE, LAST):
            yield entry


def ended(run: Path) -> bool:
    """Whether the log in this folder of W&B's has the run's end."""
    try:
        return any(entry.HasField("exit") for log in run.glob("*.wandb") for entry in entries(log))
    except (OSError, ValueError):
        return False


def foreign(run: Path, folder: Path) -> str:
    """Why sending this run would send what is not under the run's folder, or might; empty where it would not."""
    try:
        if not _within(run, folder):
            return "it is not under the folder"
        for path in [*run.glob("*.wandb"), *run.glob("files/**/*")]:  # logs/ has a link of W&B's own, and is not sent
            if path.is_symlink() and not _within(path, folder):
                return f"{printable(path.name)} is a link that leads out of the folder"
        for log in run.glob("*.wandb"):
            for entry in entries(log):
                if why := _names_foreign(entry, run / "files", folder):
                    return why
    except (OSError, RuntimeError, ValueError) as error:
        return f"it cannot be read ({printable(' '.join(str(error).split()))})"
    return ""


def _names_foreign(entry: "Entry", files: Path, folder: Path) -> str:
    kind = entry.WhichOneof("record_type")
    if kind is None or kind in HARMLESS:
        return ""
    if kind == "files":
        named = [(files, each.path) for each in entry.files.files]
    elif kind == "artifact" and not entry.artifact.manifest.manifest_file_path:
        named = [(folder, each.local_path) for each in entry.artifact.manifest.contents if each.local_path]
    else:
        return f"its log has an entry of a kind that attn_lab never sends ({kind})"
    for place, path in named:
        if not _within(place / path, place):
            return f"its log names {printable(path)[:200]!r}, which is not under the folder"
    return ""


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
