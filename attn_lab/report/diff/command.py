"""attn-lab diff A B: what changed from one run to another, as Markdown, with an exit code for CI."""

import json
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from attn_lab.core.errors import BadRequest
from attn_lab.records.reading import records
from attn_lab.records.record import STATUSES, Record
from attn_lab.records.stats.noise_floor import noise_floor
from attn_lab.report.diff.differences import BROKEN, METRICS, Difference, both, common, differences, fields
from attn_lab.report.diff.markdown import markdown

FAIL_ON = ("slower", "broken", "memory", "unsupported", "gone", *BROKEN)


def diff(
    paths: Sequence[str], *, fail_on: Collection[str] = (), metric: Sequence[str] = (),
    markdown_file: str | None = None, as_json: bool = False,
) -> int:  # fmt: skip
    """Prints what changed from run A to run B.  Returns 1 if any of `fail_on` did.

    Raises BadRequest for what cannot be compared.
    """
    readings = [_read(path) for path in paths]
    (a_rows, a_broken), (b_rows, b_broken) = readings
    if not common(a_rows, b_rows):
        raise BadRequest(f"diff: expected cases that both runs have; {_why_none(a_rows, b_rows)}")
    metrics = _metrics(metric, [*a_rows, *b_rows])
    found = differences(a_rows, b_rows, metrics)
    floors = {metric: both(noise_floor(a_rows, metric), noise_floor(b_rows, metric))
              for metric in metrics if any(each.metric == metric and each.verdict for each in found)}  # fmt: skip
    runs = list(zip(paths, (a_rows, b_rows), strict=True))
    if as_json:
        print(json.dumps([_plain(each) for each in found], indent=1, ensure_ascii=False))
        return _failed(found, set(fail_on))
    text = markdown(found, runs, floors, [*a_broken, *b_broken])
    if markdown_file:
        try:
            Path(markdown_file).write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise BadRequest(f"--markdown: expected a file that can be written; {error}") from None
        print(markdown_file)
    else:
        print(text, end="")
    return _failed(found, set(fail_on))


def _plain(each: Difference) -> dict[str, Any]:
    verdict = each.verdict
    return {
        "kind": each.kind, "backend": each.row.backend, "shape": dict(each.row.shape), "mask": each.row.mask,
        "subject": each.row.subject, "metric": each.metric, "before": each.before, "after": each.after,
        "speedup": None if verdict is None else [verdict.ratio, verdict.low, verdict.high],
        "statuses": list(each.statuses), "reason": each.reason, "noisy": each.noisy,
    }  # fmt: skip


def _read(path: str) -> tuple[list[Record], list[str]]:
    try:
        rows, broken = records(path)
    except OSError as error:
        raise BadRequest(f"diff: expected a run folder or a records file; {error}") from None
    if not rows:
        unread = f" ({len(broken)} broken line(s), the first {broken[0]})" if broken else ""
        raise BadRequest(f"diff: expected records in {path}; got none{unread}")
    machines = sorted({row.machine for row in rows})
    if len(machines) > 1:
        raise BadRequest(f"diff: expected a run of one machine; {path} has {', '.join(machines)}")
    return rows, broken


def _why_none(a_rows: Sequence[Record], b_rows: Sequence[Record]) -> str:
    """The fields that have no value in common: `dtype: A has float16, B bfloat16`."""
    values = [{"backend": {row.backend for row in rows}} for rows in (a_rows, b_rows)]
    for rows, found in zip((a_rows, b_rows), values, strict=True):
        for row in rows:
            for name, value in fields(row).items():
                found.setdefault(name, set()).add(str(value))
    a, b = values
    texts = [f"{name}: A has {', '.join(sorted(a[name]))}, B {', '.join(sorted(b[name]))}"
            for name in a if name in b and not a[name] & b[name]]  # fmt: skip
    return f"there is none ({'; '.join(texts) or 'each field has values in common, but no case all of them'})"


def _metrics(asked_for: Sequence[str], rows: Sequence[Record]) -> tuple[str, ...]:
    if not asked_for:
        return METRICS
    known = sorted({name for row in rows for name in row.metrics if _lower_is_better(name)})
    for name in asked_for:
        if name not in known:
            raise BadRequest(
                f"--metric: expected any of {', '.join(known) or 'none, nothing was measured'}; got {name!r}"
            )
    return tuple(dict.fromkeys(asked_for))


def _lower_is_better(name: str) -> bool:
    one, _, what = name.partition("/")
    return one == "memory" or what == "energy" or what.split("_")[0] == "time"


def _failed(found: Sequence[Difference], kinds: set[str]) -> int:
    counts: Counter[str] = Counter()
    for each in found:
        counts[each.kind.removeprefix("more ")] += 1
        if each.kind == "broken":
            counts[each.statuses[1]] += 1
    wanted = kinds | ({"broken"} if "slower" in kinds else set())
    texts = [f"{counts[kind]} {kind}" for kind in (*FAIL_ON, *STATUSES) if kind in wanted and counts[kind]]
    if texts:
        print(f"attn-lab: diff: {', '.join(dict.fromkeys(texts))}", file=sys.stderr)
    return int(bool(texts))
