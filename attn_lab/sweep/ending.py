"""The last words of a sweep, whatever became of it: slowest cases, failures, what is left, and how to go on."""

from collections.abc import Sequence

from attn_lab.report.read import Row

FAILED = ("wrong", "error", "timeout", "crashed")
SLOWEST = 3


def last_words(rows: Sequence[Row], total: int, command: str) -> list[str]:
    """Lines on the `rows` there are of `total` cases; `command` is what was typed, and is what resumes."""
    took = sorted(((row.metrics.get("harness/case", {}).get("value") or 0.0, row) for row in rows),
                  key=lambda pair: -pair[0])  # fmt: skip
    lines = []
    if len(rows) > 1:
        slowest = (f"{row.backend} {row.shape_text} {seconds:.3g} s" for seconds, row in took[:SLOWEST])
        lines.append(f"slowest: {', '.join(slowest)}")
    lines += [f"{row.status}: {row.backend} {row.shape_text}: {row.reasons[0] if row.reasons else 'no reason'}"
              for row in rows if row.status in FAILED]  # fmt: skip
    again = [row for row in rows if row.status in ("error", "timeout", "crashed")]
    if left := total - len(rows) + len(again):
        lines.append(f"{left} case{'s' * (left > 1)} left; to go on: {command}")
    return lines
