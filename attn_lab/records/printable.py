"""Texts made safe to show: what a terminal would obey arrives in reports and terminals as its escape."""

import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Controls but tab and newline, and what turns the direction of a line.
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(value: Any) -> Any:
    """White space becomes one space, anything else that a terminal might obey becomes its escape."""
    if isinstance(value, dict):
        return {printable(name): printable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, str) and not value.isprintable():
        value = " ".join(value.split())
        return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in value)
    return value


def harmless(text: str) -> str:
    """`text` with each character that a terminal obeys as its JSON escape."""
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Printed:
    """A standard stream for `print`: harmless text alone reaches `stream`."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(harmless(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def raw(stream: Any) -> Any:
    """The stream itself, for text that was made harmless."""
    return stream.stream if isinstance(stream, Printed) else stream


@contextmanager
def harmless_streams() -> Iterator[None]:
    """Standard output and error print harmless text meanwhile."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # ASCII alone, or names that are no UTF-8
    sys.stdout, sys.stderr = (stream if stream is None else Printed(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
