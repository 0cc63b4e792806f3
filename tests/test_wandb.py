"""W&B's own logs, read back or received by a server, say what records.jsonl says; and W&B never harms a sweep."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from wandb_loopback import KEY, Loopback
from wandb_sweep import HASTY, environment, lines, offline, sweep

pytest.importorskip("wandb", minversion="0.31")


def assert_equal(runs: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """Field by field, what W&B has against the lines of records.jsonl."""
    assert {(run["group"], run["project"]) for run in runs} == {("a sweep", "attn_lab")}
    assert sorted(run["job_type"] for run in runs) == ["case"] * len(lines) + ["summary"]
    cases = {run["config"]["case"]["id"]: run for run in runs if run["job_type"] == "case"}
    for line in lines:
        run, provenance = cases[line["case"]["id"]], dict(line["provenance"])
        config = {key: value for key, value in run["config"].items() if key != "_wandb"}
        assert config == {**provenance.pop("config"), **provenance, "case": line["case"]}
        summary = {key: value for key, value in run["summary"].items() if not key.startswith("_")}
        assert summary.pop("status") == line["status"]
        assert summary.pop("reasons") == "; ".join(line["reasons"])
        values = {name: metric["value"] for name, metric in line["metrics"].items() if metric["value"] is not None}
        expected = dict(values)
        for name, metric in line["metrics"].items():
            expected |= {f"{name}/{field}": metric[field] for field in metric if field != "value"}
            if name in ("forward/time", "backward/time", "memory/peak") and line["status"] == "ok":
                point = re.sub(r"\W", "_", run["name"].partition(" ")[2].partition(" round")[0])
                expected[f"at/{point}/{name}"] = metric["value"]
        assert summary == {key: value for key, value in expected.items() if value not in (None, "")}
        logged = [{k: v for k, v in row.items() if not k.startswith("_")} for row in run["history"]]
        assert logged == ([values] if values else [])
        assert run["exit"] == (line["status"] not in ("ok", "unsupported"))
        assert run["name"].startswith(f"{line['case']['backend']} b16 s1024 h32 e2048 ")
    (summary,) = (run for run in runs if run["job_type"] == "summary")
    table = json.loads(summary["files"][summary["summary"]["cases"]["path"]])
    assert summary["summary"]["cases"]["nrows"] == len(lines) == len(table["data"])
    for line, row in zip(lines, table["data"], strict=True):
        cells = {name: cell for name, cell in zip(table["columns"], row, strict=True) if cell not in (None, "")}
        expected = {**line["case"], **line["case"]["shape"], "status": line["status"]}
        expected |= {"reasons": "; ".join(line["reasons"])} if line["reasons"] else {}
        expected |= {name: metric["value"] for name, metric in line["metrics"].items() if metric["value"] is not None}
        del expected["shape"]
        assert cells == expected


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A sweep without a key: its folder, and what it said."""
    with sweep(tmp_path_factory.mktemp("written")) as run:
        run("import")
        where = run("open", {"folder": "runs/a b", "mode": "auto"})
        assert run.seconds < 2
        took = []
        for number in range(5):
            run("write", number)
            took.append(run.seconds)
        assert min(took[1:]) < 0.1, took  # 20 ms where nothing else runs
        assert run("close") == where
        assert run.strangers() == []
        seconds, told = run.end()
        assert seconds < 5
        assert run.strangers() == []
        assert [path.name for path in (run.place / "work" / "runs" / "a b").iterdir()] == ["wandb"]
        return run.place / "work", [*told, where]


def test_offline_runs_say_what_the_records_say(written: tuple[Path, list[str]]) -> None:
    place, _ = written
    assert_equal(offline(place / "runs" / "a b"), lines())


def test_names_tell_what_is_not_as_usual(written: tuple[Path, list[str]]) -> None:
    names = [run["name"] for run in offline(written[0] / "runs" / "a b")]
    assert "flash2 b16 s1024 h32 e2048 causal kernel" in names
    assert "flex b16 s1024 h32 e2048 num_kv_heads=8 dtype=bfloat16 causal kernel round=1" in names
    assert "a sweep summary" in names


def test_without_a_key_one_line_says_how_to_send(written: tuple[Path, list[str]]) -> None:
    told, where = written[1]
    command = "attn-lab wandb-sync 'runs/a b'"
    assert told.startswith("W&B offline: no API key for http")
    assert told.endswith(f"send the runs by: {command}")
    assert where == f"W&B: offline; send the runs by: {command}"


def test_that_command_sends_all_even_from_a_moved_folder(written: tuple[Path, list[str]], tmp_path: Path) -> None:
    place, (_, where) = written
    shutil.copytree(place, tmp_path / "work")
    with closing(Loopback()) as server:
        command = where.partition("by: ")[2]
        subprocess.run(
            command, shell=True, check=True, cwd=tmp_path / "work", timeout=30, capture_output=True,
            env=environment(tmp_path, WANDB_CACHE_DIR=str(tmp_path), **server.environment()),
        )  # fmt: skip
        assert_equal(list(server.runs.values()), lines())


def test_online_a_server_gets_what_the_records_say(tmp_path: Path) -> None:
    with closing(Loopback()) as server, sweep(tmp_path, **server.environment()) as run:
        run("tune", {"EVERY": 0.1})
        run("open", {"folder": "runs/x", "mode": "online", "entity": "somebody"})
        for number in range(5):
            run("write", number)
            assert run.seconds < 2  # the first loads W&B's data types
        until = time.monotonic() + 10
        while not any("exit" in each for each in server.runs.values()) and time.monotonic() < until:
            time.sleep(0.05)
        assert any("exit" in each for each in server.runs.values()), "nothing was sent while the sweep went on"
        where = run("close")
        assert_equal(list(server.runs.values()), lines())
        (summary,) = (name for name, each in server.runs.items() if each["job_type"] == "summary")
        assert where == f"W&B: {server.url}/somebody/attn_lab/runs/{summary}"
        seconds, told = run.end()
        assert (told, seconds < 5) == ([], True)
        assert run.strangers() == []


def test_auto_goes_offline_in_time_whatever_the_network(tmp_path: Path) -> None:
    """Also: the logger works several times in a process, and heeds an environment that has changed since."""
    with deaf() as port, sweep(tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL="http://127.0.0.1:9") as run:
        run("import")
        for name, url in {"refused": "http://127.0.0.1:9", "deaf": f"http://127.0.0.1:{port}"}.items():
            run("environment", {"WANDB_BASE_URL": url})
            run("open", {"folder": f"runs/{name}"})
            assert run.seconds < 2
            for number in range(2):
                run("write", number)
            run("close")
            assert_equal(offline(tmp_path / "work" / "runs" / name), lines()[:2])
            assert "expected a key and a server; got no" in run("open", {"folder": "runs/no", "mode": "online"})
            assert run.seconds < 2
        run("environment", {"WANDB_API_KEY": "short"})
        assert "API key must have 40+" in run("open", {"folder": "runs/no", "mode": "online"})
        run("environment", {"WANDB_MODE": "offline"})
        assert run("open", {"folder": "runs/own"}).startswith("W&B: offline")
        seconds, (refused, silent, own) = run.end()
        assert "no connection to 127.0.0.1:9 (Connection refused)" in refused
        assert f"no answer from 127.0.0.1:{port} within" in silent
        assert "W&B's own mode is offline" in own
        assert seconds < 5
        assert run.strangers() == []


@contextmanager
def deaf() -> Iterator[int]:
    """A port that neither accepts nor refuses: its backlog is full, so a connection never completes."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=1)) as server:
        waiting: list[socket.socket] = []
        while len(waiting) < 50:
            waiting.append(socket.socket())
            waiting[-1].settimeout(0.2)
            try:
                waiting[-1].connect(server.getsockname())
            except TimeoutError:
                break
        yield server.getsockname()[1]
        for each in waiting:
            each.close()


def test_online_that_cannot_be_is_a_bad_request(tmp_path: Path) -> None:
    with sweep(tmp_path) as run:
        run("import")
        said = run("open", {"folder": "runs/x", "mode": "online"})
        assert said.startswith("BadRequest: logger.wandb.mode=online: expected a key and a server; got no API key for ")
        assert (run.seconds < 2, "\n" in said) == (True, False)
        said = run("open", {"folder": "runs/x", "mode": "on"})
        assert said == "BadRequest: logger.wandb.mode: expected one of auto, online, offline, disabled; got 'on'"
        assert run.end()[1] == []


def test_a_key_in_netrc_is_found(tmp_path: Path) -> None:
    with closing(Loopback()) as server, sweep(tmp_path, WANDB_BASE_URL=server.url) as run:
        (tmp_path / "home" / ".netrc").write_text(f"machine {server.url[7:]} login user password {KEY}\n")
        assert run("open", {"folder": "runs/x"}) == f"W&B: {server.url}"
        run("close")
        assert run.end()[1] == []


def test_disabled_and_the_mere_module_import_no_wandb(tmp_path: Path) -> None:
    with sweep(tmp_path, WANDB_MODE="disabled") as run:
        for mode in ("disabled", "auto"):
            assert run("open", {"folder": "runs/x", "mode": mode}) == ""
            run("write", 0)
            assert run("close") == ""
            assert not run.imported
        assert (run.end()[1], (tmp_path / "work" / "runs").exists()) == ([], False)


def test_without_wandb_installed_a_sweep_goes_on(tmp_path: Path) -> None:
    with sweep(tmp_path) as run:
        run("without", True)
        assert "expected a working W&B; got " in run("open", {"folder": "runs/x", "mode": "online"})
        run("open", {"folder": "runs/x"})
        run("write", 0)
        run("close")
        (told,) = run.end()[1]
        assert told.startswith("W&B stopped: ") and told.endswith("; records.jsonl is complete")


def test_a_server_that_dies_costs_nothing_and_the_rest_is_sent_later(tmp_path: Path) -> None:
    with closing(Loopback()) as server, sweep(tmp_path, **HASTY, **server.environment()) as run:
        run("tune", {"EVERY": 0.1, "PATIENCE": 5})
        run("open", {"folder": "runs/x"})
        run("write", 0)
        until = time.monotonic() + 10
        while not list(tmp_path.rglob("*.wandb.synced")) and time.monotonic() < until:
            time.sleep(0.05)
        server.close()
        for number in range(1, 5):
            run("write", number)
            assert run.seconds < 1
        where = run("close")
        assert run.seconds < 5 + 4
        seconds, told = run.end()
        assert seconds < 5
        assert told == []
        assert re.match(r"W&B: 5 of 6 runs not sent \(.+\); send the runs by: attn-lab wandb-sync runs/x$", where)
        with closing(Loopback()) as reborn:
            subprocess.run(
                where.partition("by: ")[2], shell=True, check=True, cwd=tmp_path / "work", capture_output=True,
                env=environment(tmp_path, **reborn.environment()),
            )  # fmt: skip
            assert_equal([*server.runs.values(), *reborn.runs.values()], lines())


def test_a_server_that_falls_silent_is_waited_for_only_so_long(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:  # takes connections, and that is all
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with sweep(tmp_path, WANDB_BASE_URL=url, WANDB_API_KEY=KEY) as run:
            run("tune", {"EVERY": 0.1, "PATIENCE": 2})
            run("open", {"folder": "runs/x"})
            for number in range(3):
                run("write", number)
                assert run.seconds < 2
            where = run("close")
            assert run.seconds < 2 + 4
            assert f"4 of 4 runs not sent ({url} did not take them within 2 s)" in where
            seconds, told = run.end()
            assert (told, seconds < 5) == ([], True)


def test_what_a_server_fails_to_take_is_not_called_sent(tmp_path: Path) -> None:
    """`wandb sync` itself calls it synced, in both cases."""
    with closing(Loopback()) as server, sweep(tmp_path, **HASTY, **server.environment()) as run:
        said = []
        for count, fails in enumerate(["PUT .*table", "POST .*file_stream"], 1):
            server.fails = re.compile(fails)
            run("open", {"folder": f"runs/{count}"})
            run("write", 0)
            said.append(run("close"))
            assert re.match(rf"W&B: {count} of 2 runs not sent \(.+\); send the runs by: ", said[-1])
            assert len(list(tmp_path.glob(f"work/runs/{count}/**/*.wandb.synced"))) == 2 - count
        assert run.end()[1] == []


def test_a_service_that_is_killed_between_runs_costs_none(tmp_path: Path) -> None:
    with sweep(tmp_path) as run:
        run("open", {"folder": "runs/x", "mode": "offline"})
        run("write", 0)
        os.kill(run("service"), 9)
        for number in range(1, 5):
            run("write", number)
        assert run("close") == "W&B: offline; send the runs by: attn-lab wandb-sync runs/x"
        seconds, told = run.end()
        assert (told, seconds < 5) == ([], True)
    assert_equal(offline(tmp_path / "work/runs/x"), lines())


def test_a_proxy_is_knocked_at_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    from attn_lab.loggers.wandb.server import _unreachable

    with closing(socket.create_server(("127.0.0.1", 0))) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert _unreachable("http://nowhere.invalid", 1) == ""
        assert "refused" in _unreachable("http://127.0.0.1:9", 1)


def test_a_name_server_that_sleeps_does_not_hold_us_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from attn_lab.loggers.wandb.server import _unreachable

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5) or [])
    began = time.monotonic()
    assert "no answer" in _unreachable("https://slow.invalid", 0.3)
    assert time.monotonic() - began < 1
