"""attn-lab wandb RUN: W&B's runs from records.jsonl alone say what those of the sweep itself would have said."""

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from wandb_loopback import Loopback
from wandb_sweep import HASTY, environment, offline, sweep, swept

pytest.importorskip("wandb", minversion="0.31")

FEW = [each for each in swept() if each.case["round"] == 0 and each.case["backend"] in ("naive", "flash2")]


def told(place: Path, *words: str, **more: str) -> tuple[int, list[str], str]:
    done = subprocess.run(
        [sys.executable, "-m", "attn_lab", "wandb", *words], cwd=place, env=environment(place, **HASTY, **more),
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines(), done.stderr


def as_said(folder: Path) -> dict[str, Any]:
    """What each run says, by its id, without what is of the moment of writing."""
    said = ("name", "group", "job_type", "project", "config", "summary", "history", "over", "exit")
    return {run["id"]: {name: _plain(run[name]) for name in said} for run in offline(folder)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if key[:1] != "_"}
    return [_plain(each) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that W&B logged, with its records.jsonl and a file that a probe left."""
    place = tmp_path_factory.mktemp("logged")
    with sweep(place) as run:
        folder = place / "work/runs/x"
        artifact = folder / f"profile/{FEW[0].id}/trace.json"
        artifact.parent.mkdir(parents=True)
        artifact.write_text("{}")
        entry = {"kind": "trace", "path": f"profile/{FEW[0].id}/trace.json", "size": 2}
        (folder / "records.jsonl").write_text("".join(
            json.dumps({**json.loads(each.line()), "artifacts": [entry] * (number == 0)}) + "\n"
            for number, each in enumerate(FEW)
        ))  # fmt: skip
        run("open", {"folder": "runs/x", "mode": "offline"})
        for each in FEW:
            run("write", each)
        run("close")
        assert run.end()[1] == []
    return folder


@pytest.fixture
def folder(logged: Path, tmp_path: Path) -> Path:
    shutil.copytree(logged, tmp_path / "x")
    return tmp_path / "x"


def test_what_a_sweep_did_not_log_is_as_if_it_had(folder: Path, tmp_path: Path) -> None:
    expected = as_said(folder)
    shutil.rmtree(folder / "wandb")
    with (folder / "records.jsonl").open("a") as file:
        file.write("{torn\nnot JSON\n")
    code, said, err = told(tmp_path, "x")
    assert code == 0
    assert said[0] == f"x: {len(expected)} runs written, 0 there before, 2 broken lines not read"
    assert said[1].startswith("W&B: offline (no API key for http") and said[1].endswith("attn-lab wandb-sync x")
    assert [line.split(": ")[1] for line in err.splitlines()] == ["not read"] * 2
    found = as_said(folder)
    assert found.keys() == expected.keys()
    for name, run in expected.items():
        if run["job_type"] == "summary":
            assert found[name]["summary"]["cases"]["sha256"] == run["summary"]["cases"]["sha256"]
        else:
            assert found[name] == run
    assert any("trace.json" in log.read_bytes().decode(errors="replace") for log in folder.glob("wandb/*/*.wandb"))


def test_said_twice_nothing_is_doubled(folder: Path, tmp_path: Path) -> None:
    before = {run["id"]: run["folder"].name for run in offline(folder)}
    code, said, err = told(tmp_path, "x", "--offline")
    assert (code, err) == (0, "")
    assert said == [f"x: 0 runs written, {len(before)} there before",
                    "W&B: offline; send the runs by: attn-lab wandb-sync x"]  # fmt: skip
    assert {run["id"]: run["folder"].name for run in offline(folder)} == before


def test_only_what_is_lost_or_cut_short_is_made_again_and_all_are_sent_once(folder: Path, tmp_path: Path) -> None:
    runs = offline(folder)
    cases = [run for run in runs if run["job_type"] == "case"]
    shutil.rmtree(cases[0]["folder"])
    log = next(cases[1]["folder"].glob("*.wandb"))
    log.write_bytes(log.read_bytes()[:-60])
    with closing(Loopback()) as server:
        code, said, err = told(tmp_path, "x", **server.environment())
        assert (code, err) == (0, ""), said
        over_all = sum(run["job_type"] in ("series", "summary") for run in runs)
        assert said[0] == f"x: {2 + over_all} runs written, {len(runs) - 2 - over_all} there before"
        assert said[-1] == f"{len(runs)} runs sent, none left to send"
        assert {*server.whole} == {run["id"] for run in runs} == {run["id"] for run in offline(folder)}
        for line in (json.loads(each.line()) for each in FEW):
            (run,) = (
                run for run in server.runs.values() if run["config"].get("case", {}).get("id") == line["case"]["id"]
            )
            values = {name: each["value"] for name, each in line["metrics"].items()}
            assert {name: run["summary"][name] for name in values} == values
        code, said, _ = told(tmp_path, "x", **server.environment())
        assert (code, said[-1], len(server.runs)) == (0, "0 runs sent, none left to send", len(runs))


@pytest.mark.parametrize(
    ("words", "more", "expected"),
    [
        (["nowhere"], {}, "wandb: expected run folders; got no such run folder: nowhere"),
        (["empty"], {}, "wandb: expected records; got none in empty"),
        ([], {}, "wandb: the following arguments are required: RUN"),
        (["x"], {"WANDB_MODE": "disabled"}, "wandb: expected W&B to be in use; got WANDB_MODE=disabled"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    folder: Path, tmp_path: Path, words: list[str], more: dict[str, str], expected: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/records.jsonl").touch()
    code, said, err = told(tmp_path, *words, **more)
    assert (code, said) == (2, []) and err.startswith(f"attn-lab: {expected}") and err.count("\n") == 1


def test_runs_of_a_version_that_chose_ids_by_chance_are_not_doubled(folder: Path, tmp_path: Path) -> None:
    """What a run is of is in its log: its name and its folder's may be anything."""
    shutil.rmtree(folder / "wandb")
    with sweep(tmp_path / "other") as run:
        run("ids", None)
        run("open", {"folder": str(folder), "mode": "offline"})
        for each in FEW:
            run("write", each)
        run("close")
    before = {run["id"] for run in offline(folder)}
    assert told(tmp_path, "x", "--offline")[1][0] == f"x: 0 runs written, {len(before)} there before"
    assert {run["id"] for run in offline(folder)} == before
