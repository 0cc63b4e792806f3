"""What a run folder already answers: each planned case is done, stale or to do, and why."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from attn_lab.core.errors import BadRequest
from attn_lab.measure.case import Case
from attn_lab.records.reading import records
from attn_lab.records.record import Record
from attn_lab.run.provenance import TOOLS

RESUME = {  # by resume=…, the outcomes that are not run again
    "auto": (
        "ok",
        "unsupported",
        "incorrect",
        "oom",
    ),  # an answer; error, crashed and timeout may be the machine's doing
    "failed": ("ok", "unsupported"),
    "never": (),
}


class CaseStatus(NamedTuple):
    """A planned case: done, stale (answered on another basis: it is run again) or todo."""

    case: Case
    state: str
    why: str


def check_resume(mode: str) -> None:
    if mode not in RESUME:
        raise BadRequest(f"resume: expected one of {', '.join(RESUME)}; got {mode!r}")


def case_statuses(folder: Path, cases: Sequence[Case], mode: str) -> list[CaseStatus]:
    """Where each case stands, in order.  A folder that is not there has answered nothing."""
    rows = records(folder, newest=False).records if (folder / "records.jsonl").is_file() else []
    by_id = {row.id: row for row in rows}  # later lines are newer
    by_question = {row.question: row for row in rows}
    return [_case_status(case, by_id.get(case.id), by_question.get(case.question), mode) for case in cases]


def _case_status(case: Case, same: Record | None, alike: Record | None, mode: str) -> CaseStatus:
    if same is not None and same.question == case.question:  # ids may collide: a digest is short
        if same.status in RESUME[mode]:
            return CaseStatus(case, "done", same.status)
        return CaseStatus(case, "todo", f"was {same.status}; resume={mode} runs it again")
    if alike is not None:
        return CaseStatus(case, "stale", _difference(_basis(alike.provenance), case.basis))
    return CaseStatus(case, "todo", "not run yet")


def _basis(provenance: Mapping[str, Any]) -> dict[str, str]:
    machine = provenance["machine"]
    of_machine = {"machine": machine.get("name"), "driver": machine.get("driver"), "threads": machine.get("threads")}
    versions = {name: version for name, version in provenance["versions"].items() if name not in TOOLS}
    return {name: str(value) for name, value in {**of_machine, **versions}.items()}


def _difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """`torch 2.11.0 → 2.13.0, source none → 3fa2b1c0`."""
    return ", ".join(
        f"{name} {before.get(name, 'none')} → {now[name]}" for name in now if before.get(name) != now[name]
    )
