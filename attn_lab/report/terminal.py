"""The console of every command: whatever a text came from, a terminal obeys none of it."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

from attn_lab.records.printable import harmless, raw


class Terminal(Console):
    """A console whose texts are harmless; the colours and cursor moves are its own."""

    def __init__(self, file: Any = None, **settings: Any):
        super().__init__(file=raw(sys.stdout) if file is None else file, **settings)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            each if each.control else Segment(harmless(each.text), each.style) for each in buffer
        )
