"""Texts from records made safe to show: control characters arrive in reports and terminals escaped."""

from typing import Any


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
