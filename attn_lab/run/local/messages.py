"""Messages from a worker to its sweep over a pipe: JSON, validated, never waited for the rest of one."""

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from attn_lab.records.record import Record, Status

SIZE = struct.Struct("!Q")
LARGEST = 2**28  # bytes of a message; a record's samples take kilobytes


class Probing(msgspec.Struct, tag="probing", frozen=True):
    """The probe that begins."""

    probe: str


class Answer(msgspec.Struct, tag="answer", frozen=True):
    """What came of the case at hand; which case that is, the sweep knows."""

    status: Status
    reasons: Sequence[str]
    metrics: Mapping[str, Mapping[str, int | float | str | None]]
    series: Mapping[str, Sequence[float]]
    files: Sequence[tuple[str, str]]  # kind, path

    @classmethod
    def of(cls, record: Record) -> "Answer":
        plain = record.as_json()
        series = {name: [float(value) for value in values] for name, values in record.series.items()}
        files = [(file.kind, str(file.path)) for file in record.files]
        return cls(record.status, plain["reasons"], plain["metrics"], series, files)  # type: ignore[arg-type]


Message = Probing | Answer


class Garbage(ValueError):
    """What came is no message."""


def send(descriptor: int, message: Message) -> None:
    """Write one message, whole.  Raises BrokenPipeError when the other end is closed."""
    plain = {name: getattr(message, name) for name in message.__struct_fields__}
    body = json.dumps({"type": message.__struct_config__.tag, **plain}).encode()
    left = memoryview(SIZE.pack(len(body)) + body)
    while left:
        left = left[os.write(descriptor, left) :]


class Receiver:
    """Takes in what has come; a worker that stops in the middle of a message does not block the sweep.

    `ended`: the other end was closed.
    """

    def __init__(self, descriptor: int):
        self._descriptor, self._buffer = descriptor, bytearray()
        self.ended = False
        os.set_blocking(descriptor, False)

    def messages(self) -> Iterator[Message]:
        """Every message that is whole by now.  Raises Garbage for what is none."""
        try:
            while chunk := os.read(self._descriptor, 1 << 20):
                self._buffer += chunk
            self.ended = True
        except OSError:  # nothing more at the moment, or for good
            pass
        while len(self._buffer) >= SIZE.size:
            (size,) = SIZE.unpack_from(self._buffer)
            if size > LARGEST:
                raise Garbage(f"a message of {size} bytes")
            end = SIZE.size + size
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[SIZE.size : end])
            del self._buffer[:end]
            try:
                yield msgspec.convert(json.loads(body), Message)
            except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
                raise Garbage(str(error)) from None
