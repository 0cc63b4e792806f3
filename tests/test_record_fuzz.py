"""Whatever a run folder holds, the commands that read it answer: no traceback, and nothing that it names is run.

ATTN_LAB_FUZZ=3000 spoils as many records and gives each to every command; otherwise it is a sample of 60.
"""

import contextlib
import io
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from spoilt import BASES, MARK, RESULTS, Spoilt, spoilt

from attn_lab.cli.main import execute
from attn_lab.core.errors import BadRequest
from attn_lab.measure.case import Case
from attn_lab.records.store import RunStore, find_case
from attn_lab.report import table_export
from attn_lab.report.data import read
from attn_lab.report.pages import PAGES
from attn_lab.report.render import html, markdown
from attn_lab.run import repro_command as again
from attn_lab.run.nsight import case_under_nsight
from attn_lab.run.resume import case_statuses

COUNT = os.environ.get("ATTN_LAB_FUZZ", "")  # "3000", or "1000-2000" for a part of them
SLOW = ("show", "report", "dashboard", "nsight")  # of a sample's records each meets one of these


def report_(run: Spoilt) -> None:
    """The report without its figures: Vega draws the numbers that the pages hold."""
    study = read([run.folder], language="en", baseline="naive", out=run.folder)
    pages = [(name, name, pieces) for name, page in PAGES.items() if (pieces := list(page.render(study)))]
    markdown.page(study, "t", pages, {})
    html.page(study, "t", pages, "")
    table_export.write(study, run.folder)


def dashboard_(run: Spoilt) -> None:
    pytest.importorskip("wandb_workspaces")
    execute(["dashboard", str(run.folder), "--dry-run"])


def show_(run: Spoilt) -> None:
    if run.id:
        execute(["show", run.id, str(run.folder)])


def nsight_(run: Spoilt) -> None:
    """As far as the case that would be run under a tool."""
    if run.id:
        case_under_nsight(find_case(run.id, [run.folder]))


def repair_(run: Spoilt) -> None:
    RunStore(run.folder).repair()


@pytest.fixture(scope="module")
def commands(planned: list[Case]) -> dict[str, Callable[[Spoilt], Any]]:
    return {
        "show": show_, "diff": lambda run: execute(["diff", str(run.folder), str(RESULTS / BASES[0])]),
        "diff itself": lambda run: execute(["diff", *[str(run.folder)] * 2]),
        "report": report_, "dashboard": dashboard_,
        "tune": lambda run: execute(["tune", str(run.folder), "-o", str(run.folder / "plan.json")]),
        "ls": lambda run: execute(["ls", str(run.folder)]),
        "status": lambda run: case_statuses(run.folder, planned, "auto"), "resume": repair_, "nsight": nsight_,
    }  # fmt: skip


@pytest.fixture(scope="module")
def planned() -> list[Case]:
    from attn_lab.run.repro_command import composed

    return [composed(["backend=naive", "device=cpu"])[0]]


def test_no_spoilt_record_ends_a_command_or_is_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: dict[str, Callable[[Spoilt], Any]]
) -> None:
    monkeypatch.chdir(tmp_path)
    compose = cache(again.configuration)  # 0.1 s, and most of the records ask for the same words
    monkeypatch.setattr(again, "configuration", lambda words: compose(tuple(words)))
    started: list[Any] = []
    watching = True
    starting = ("subprocess.Popen", "os.system", "os.exec", "os.fork")
    sys.addaudithook(lambda event, given: started.append(given) if watching and event in starting else None)
    failures: dict[str, str] = {}
    outcomes: Counter[str] = Counter()
    first, _, last = COUNT.rpartition("-")
    for number, run in enumerate(spoilt(tmp_path / "run", range(int(first or 0), int(last or 60)))):
        for name, command in commands.items():
            if not COUNT and name in SLOW and name != SLOW[number % len(SLOW)]:
                continue
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    command(run)
                outcomes[f"{name}: answered"] += 1
            except BadRequest as error:
                outcomes[f"{name}: refused"] += 1
                if not str(error).isprintable():
                    failures[f"{name}: {run.what}"] = f"not one printable line: {error!r}"
            except Exception:  # noqa: BLE001  that is what is looked for
                outcomes[f"{name}: traceback"] += 1
                failures.setdefault(f"{name}: {run.what}", traceback.format_exc())
        assert not (tmp_path / MARK).exists(), run.what
    watching = False
    print(*sorted(outcomes.items()), sep="\n")
    assert not failures, "\n".join([*failures, *list(failures.values())[:3]])
    assert not started


def test_the_records_as_published_are_all_read() -> None:
    for file in sorted(RESULTS.rglob("records.jsonl")):
        found, broken = RunStore(file.parent).records()
        assert not broken and len(found) == len(file.read_text().splitlines()), file
