"""The end of a sweep, whatever became of it: its records, their report, and how to go on."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attn_lab.core.errors import BadRequest
from attn_lab.measure.case import Case
from attn_lab.records.broken import BrokenLines
from attn_lab.records.reading import Reading, records
from attn_lab.records.record import Record
from attn_lab.report.command import make

FAILED = ("incorrect", "error", "timeout", "crashed")
SLOWEST = 3


def summary_lines(rows: Sequence[Record], total: int, command: str) -> list[str]:
    """Lines on the `rows` there are of `total` cases; `command` is what was typed, and is what resumes."""
    took = sorted(((row.metrics.get("case/seconds", {}).get("value") or 0.0, row) for row in rows),
                  key=lambda pair: -pair[0])  # fmt: skip
    lines = []
    if rows and all(row.status == "unsupported" for row in rows):
        reasons = Counter(row.reasons[0] if row.reasons else "no reason" for row in rows)
        lines.append(f"nothing could run: {'; '.join(f'{n} × {why}' for why, n in reasons.most_common(3))}")
    if len(rows) > 1:
        slowest = (f"{row.backend} {row.shape_text} {seconds:.3g} s" for seconds, row in took[:SLOWEST])
        lines.append(f"slowest: {', '.join(slowest)}")
    lines += [f"{row.status}: {row.backend} {row.shape_text}: {row.reasons[0] if row.reasons else 'no reason'}"
              for row in rows if row.status in FAILED]  # fmt: skip
    again = [row for row in rows if row.status in ("error", "timeout", "crashed")]
    if left := total - len(rows) + len(again):
        lines.append(f"{left} case{'s' * (left > 1)} left; to go on: {command}")
    return lines


def planned_records(folder: Path, cases: Sequence[Case]) -> Reading:
    """The rows that the folder now has of these cases, whichever sweep made them."""
    if not (folder / "records.jsonl").is_file():
        return Reading([], BrokenLines())
    rows, broken = records(folder, newest=False)
    planned = {case.id for case in cases}
    return Reading(list({row.id: row for row in rows if row.id in planned}.values()), broken)


def reported(folder: Path, language: str, baseline: str) -> str:
    """Make the folder's report and say where it is, or why there is none: the records are safe either way."""
    try:
        page, *_ = make([folder], folder / "report", language=language, baseline=baseline)
    except (BadRequest, OSError) as error:
        return f"{later(folder)} ({error})"
    except Exception as error:  # noqa: BLE001  a process that draws may be killed; the records are safe
        return f"{later(folder)} ({type(error).__name__}: {' '.join(str(error).split())})"
    return f"report: {page}"


def later(folder: Path) -> str:
    return f"no report was made; later: attn-lab report {folder}"
