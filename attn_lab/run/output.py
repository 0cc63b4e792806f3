"""Standard output that a sweep outlives: what cannot be printed is lost, records are not."""

import os
import sys
from typing import Any, TextIO


class LastingOutput:
    """Writes to `stream` until that fails (a full disk, a closed terminal); then nowhere, and says so on stderr."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._tried("write", text) or 0

    def flush(self) -> None:
        self._tried("flush")

    def _tried(self, method: str, *arguments: Any) -> Any:
        if self._stream is None:
            return None
        try:
            return getattr(self._stream, method)(*arguments)
        except (OSError, ValueError) as error:
            stream, self._stream = self._stream, None
            drain(stream)
            try:
                print(f"attn-lab: standard output cannot be written ({error}); the sweep goes on", file=sys.stderr)
            except OSError:
                drain(sys.stderr)
            return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def drain(stream: TextIO | None) -> None:
    """Let what the stream still holds go to /dev/null, or Python would fail at its end."""
    if stream is None:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):
        pass
    finally:
        os.close(nowhere)
