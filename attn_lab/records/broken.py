"""What could not be read: each broken line or samples file is counted, the first of them named."""

from collections.abc import Sequence


class BrokenLines(list[str]):
    """`file:line: why`, one for each line that could not be read; past MOST_NAMED only `total` counts on."""

    MOST_NAMED = 20
    total = 0

    def note(self, lines: Sequence[str], total: int) -> None:
        """Count `total` more broken lines, of which these are named."""
        self.total += total
        named = [*self[: self.MOST_NAMED], *lines][: self.MOST_NAMED]
        more = self.total - len(named)
        self[:] = named + [f"… and {more} more broken lines"] * bool(more)
