"""Messages between a sweep and its worker over a pipe, received without ever waiting for the rest of one."""

import os
import pickle
import struct
from collections.abc import Iterator
from typing import Any

SIZE = struct.Struct("!Q")


def send(descriptor: int, message: Any) -> None:
    """Write one message, whole.  Raises BrokenPipeError when no one reads any more."""
    body = pickle.dumps(message)
    left = memoryview(SIZE.pack(len(body)) + body)
    while left:
        left = left[os.write(descriptor, left) :]


class Receiver:
    """Takes in what has come; a worker that stops in the middle of a message does not block the sweep."""

    def __init__(self, descriptor: int):
        self._descriptor, self._buffer = descriptor, bytearray()
        os.set_blocking(descriptor, False)

    def messages(self) -> Iterator[Any]:
        """Every message that is whole by now."""
        try:
            while chunk := os.read(self._descriptor, 1 << 20):
                self._buffer += chunk
        except OSError:  # nothing more at the moment, or for good
            pass
        while len(self._buffer) >= SIZE.size:
            end = SIZE.size + SIZE.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[SIZE.size : end])
            del self._buffer[:end]
            yield pickle.loads(body)
