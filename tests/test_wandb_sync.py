"""attn-lab wandb-sync: what was logged offline arrives whole, run by run, however often it takes."""

import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from wandb_loopback import KEY, Loopback
from wandb_sweep import HASTY, environment, offline, sweep, swept

from attn_lab.loggers.wandb.server import _cut_short

pytest.importorskip("wandb", minversion="0.31")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An offline sweep of nine runs: six cases, two series, a summary."""
    with sweep(tmp_path_factory.mktemp("logged")) as run:
        run("open", {"folder": "runs/x", "mode": "offline"})
        for each in (
            each for each in swept() if each.case["round"] == 0 and each.case["backend"] in ("naive", "flash2")
        ):
            if "is_aa_repeat" not in each.case:
                run("write", each)
        run("close")
        assert run.end()[1] == []
        return run.place / "work" / "runs" / "x"


@pytest.fixture
def folder(logged: Path, tmp_path: Path) -> Path:
    shutil.copytree(logged, tmp_path / "work" / "runs" / "x")
    return tmp_path / "work" / "runs" / "x"


def told(place: Path, *words: str, **more: str) -> tuple[int, list[str], str]:
    command, clean = (
        [sys.executable, "-m", "attn_lab", "wandb-sync", *words],
        environment(place.parent, **HASTY, **more),
    )
    done = subprocess.run(command, cwd=place, env=clean, capture_output=True, text=True, timeout=100)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_all_arrive_as_they_were_logged_and_are_sent_once(folder: Path, tmp_path: Path) -> None:
    before = {run["folder"].name.rpartition("-")[2]: run for run in offline(folder)}
    (folder / "wandb" / "offline-run-20000101_000000-emptyrun").mkdir()  # killed while it began: would block all others
    (folder / "wandb" / "offline-run-20000101_000000-emptyrun" / "run-emptyrun.wandb").write_bytes(b":W&B\xd2\xbe\x00")
    with closing(Loopback()) as server:
        code, said, err = told(tmp_path / "work", "runs/x", **server.environment())
        assert (code, err) == (0, "")
        assert sorted(said[:-1]) == sorted(f"runs/x/wandb/{run['folder'].name}  sent" for run in before.values())
        assert said[-1] == "9 runs sent, none left to send"
        assert set(server.runs) == set(before)
        for name, run in before.items():
            arrived = server.runs[name]
            for part in ("name", "group", "job_type", "project", "exit"):
                assert arrived[part] == run[part]
            assert arrived["config"]["case"] == run["config"]["case"] if run["job_type"] != "summary" else True
            assert [_own(row) for row in arrived["history"]] == [_own(row) for row in run["history"]]
            media = {file for file in run["files"] if file.startswith("media/")}
            assert bool(media) == (run["job_type"] == "summary")
            assert {file: arrived["files"][file] for file in media} == {file: run["files"][file] for file in media}
        server.takes = 0
        assert told(tmp_path / "work", "runs/x", **server.environment())[:2] == (
            0,
            ["9 runs were sent before", "0 runs sent, none left to send"],
        )


def test_a_server_that_fails_half_way_gets_the_rest_by_the_same_command(folder: Path, tmp_path: Path) -> None:
    with closing(Loopback()) as server:
        server.takes = 4
        code, said, _ = told(tmp_path / "work", "runs/x", **server.environment())
        sent = [line for line in said if line.endswith("  sent")]
        failed = [line for line in said if "  failed  " in line]
        assert all("500" in line for line in failed), said
        assert (code, len(sent) + len(failed)) == (1, 9)
        assert 1 <= len(sent) < 9  # five are sent at a time
        assert said[-1] == f"{len(sent)} runs sent, {len(failed)} not sent; the same command tries them again"
        first = {line.split()[0].rpartition("-")[2] for line in sent}
        assert first <= set(server.whole)
    with closing(Loopback()) as reborn:
        code, said, _ = told(tmp_path / "work", "runs/x", **reborn.environment())
        assert (code, said[0], said[-1]) == (
            0,
            f"{len(sent)} runs were sent before",
            f"{len(failed)} runs sent, none left to send",
        )
        assert set(reborn.whole) == {run["folder"].name.rpartition("-")[2] for run in offline(folder)} - first


def test_a_file_that_was_not_taken_fails_its_run_alone(folder: Path, tmp_path: Path) -> None:
    with closing(Loopback()) as server:
        server.fails = re.compile("PUT .*table")
        code, said, _ = told(tmp_path / "work", "runs/x", "--project", "other", "--entity=them", **server.environment())
        (failed,) = (line for line in said if "  failed  " in line)
        (summary,) = (run["folder"].name for run in offline(folder) if run["job_type"] == "summary")
        assert code == 1 and summary in failed and "500" in failed
        assert {(run["project"], run["entity"]) for run in server.runs.values()} == {("other", "them")}


def test_what_failed_beside_others_is_tried_once_more(folder: Path, tmp_path: Path) -> None:
    with closing(Loopback()) as server:
        server.fails, server.times = re.compile("PUT .*table"), 2  # as often as W&B itself tries here
        code, said, err = told(tmp_path / "work", "runs/x", **server.environment())
        assert (code, said[-1], err) == (0, "9 runs sent, none left to send", "")
        assert server.times == 0 and len(server.whole) == 9


def test_a_run_whose_end_did_not_go_is_not_taken_for_sent(folder: Path, tmp_path: Path) -> None:
    """W&B marks it as synced: of what its own log tells, a planted loss."""
    with closing(Loopback()) as server:
        assert told(tmp_path / "work", "runs/x", **server.environment())[0] == 0
    lines = [line for log in folder.glob("wandb/logs/debug-sync*") for line in log.read_text().splitlines()]
    for run in folder.glob("wandb/offline-run-*"):
        mine = [line for line in lines if run.name in line]
        assert _cut_short(mine) == ""
        last = max(index for index, line in enumerate(mine) if '"complete":true' in line)
        for lost in (mine[:last], mine[: last + 1], [line for line in mine if '"complete"' not in line]):
            assert _cut_short(lost) == "the server was not told that it has ended"
    assert _cut_short(["wandb: Syncing", '{"msg":"a log of another W&B"}', '{"msg":"half', '{"msg":"half}']) == ""


def test_a_server_that_takes_nothing_is_not_asked_for_each(folder: Path, tmp_path: Path) -> None:
    with closing(Loopback()) as server:
        server.fails = re.compile("file_stream")
        code, said, _ = told(tmp_path / "work", "runs/x", **server.environment())
        assert (code, len(server.runs)) == (1, 5)
        assert said[-2:] == [
            "runs/x/wandb: 4 more not tried, as none of the last 5 went",
            "0 runs sent, 9 not sent; the same command tries them again",
        ]


@pytest.mark.parametrize(
    ("words", "more", "expected"),
    [
        (["nowhere"], {}, "wandb-sync: expected a run folder with W&B's offline runs; got none in nowhere/wandb"),
        ([], {}, "wandb-sync: the following arguments are required: RUN"),
        (["runs/x"], {}, "wandb-sync: expected a key and a server; got no API key for http"),
        (
            ["runs/x"],
            {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"},
            "wandb-sync: expected a key and a server; got no connection to 127.0.0.1:9 (Connection refused)",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    folder: Path, tmp_path: Path, words: list[str], more: dict[str, str], expected: str
) -> None:
    code, said, err = told(tmp_path / "work", *words, **more)
    assert (code, said) == (2, [])
    assert err.startswith(f"attn-lab: {expected}") and err.count("\n") == 1


def _own(row: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in row.items() if not key.startswith("_")}
