"""The nearest valid name to one that was mistyped."""

import difflib
from collections.abc import Iterable


def did_you_mean(got: object, expected: Iterable[str]) -> str:
    """`; did you mean 'naive'?`, or "" if nothing expected is close to what was given."""
    text = str(got)
    if len(text) > 100:  # difflib takes quadratic time
        return ""
    near = difflib.get_close_matches(text, list(expected), n=1)
    return f"; did you mean {near[0]!r}?" if near and near[0] != text else ""
