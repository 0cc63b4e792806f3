"""What can be wrong with a request or an answer, as a small tree of exceptions.

AttnLabError
├── BadRequest      the words are wrong: nothing was run (exit code 2)
├── StorageError    a record cannot be written, or would be lost
├── Unsupported     a backend cannot serve this request; carries every reason
└── Incorrect       an output, a gradient or a launched kernel failed verification; carries every reason
"""

from collections.abc import Sequence


class AttnLabError(Exception):
    """Anything attn_lab says on purpose; its text is one line."""


class BadRequest(AttnLabError, ValueError):
    """The request itself is malformed.  Say what was expected, what came, and what to do."""


class StorageError(AttnLabError):
    """A record cannot be written: the disk is full, or its file was replaced, deleted or renamed."""


class Unsupported(AttnLabError):
    """A backend cannot serve a request.  `reasons` holds all of them, not the first."""

    def __init__(self, backend: str, reasons: Sequence[str]):
        self.reasons = list(reasons)
        super().__init__(f"{backend} refuses: {'; '.join(reasons)}")


class Incorrect(AttnLabError):
    """A check of the answer failed.  The case ends here, before any clock."""

    def __init__(self, *reasons: str):
        self.reasons = list(reasons)
        super().__init__("; ".join(reasons))
