"""Lines over a swept axis, and the report beside the table: what W&B is given at a sweep's end, read back."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from wandb_loopback import Loopback
from wandb_sweep import environment, lines, offline, sweep, swept

pytest.importorskip("wandb", minversion="0.31")

HTML = "<!doctype html><title>“12.9×”</title>" + "<p>x</p>" * 500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an offline sweep over seq_len, which wrote a report before its loggers were closed."""
    with sweep(tmp_path_factory.mktemp("swept")) as run:
        run("open", {"folder": "runs/x", "mode": "offline"})
        for each in swept():
            run("write", each)
        report = run.place / "work" / "runs" / "x" / "report"
        (report / "figures").mkdir(parents=True)
        (report / "report.html").write_text(HTML, encoding="utf-8")
        for name, grey in {"one": 0, "two": 100, "earlier": 200}.items():
            Image.new("L", (3, 2), grey).save(report / "figures" / f"{name}.png")
        os.utime(report / "figures" / "earlier.png", (1e9, 1e9))  # another sweep's
        run("close")
        told = run.end()[1]
        assert len(told) == 0, told
        assert run.strangers() == []
        return report.parent


def test_one_line_a_backend_with_the_numbers_of_the_records(folder: Path) -> None:
    runs = {run["name"]: run for run in offline(folder) if run["job_type"] == "series"}
    assert sorted(runs) == [f"{name} over seq_len: b16 h32 e2048 causal kernel" for name in ("flash2", "naive")]
    for name, run in runs.items():
        backend = name.partition(" ")[0]
        rounds = [
            line for line in lines(swept()) if line["case"]["backend"] == backend and not line["case"]["is_aa_repeat"]
        ]
        expected = []
        for seq_len in (256, 512, 1024):
            first, second = (line for line in rounds if line["case"]["shape"]["seq_len"] == seq_len)
            if first["status"] == "ok":
                point = {
                    key: (each["value"] + second["metrics"][key]["value"]) / 2 for key, each in first["metrics"].items()
                }
                worst = max(line["metrics"]["accuracy/out"]["value"] for line in (first, second))
                expected.append({"seq_len": seq_len, **point, "accuracy/out": worst})
        assert len(expected) == (2 if backend == "naive" else 3)
        assert [_seen(row) for row in run["history"]] == [pytest.approx(each) for each in expected]
        assert run["over"]["forward/time"] == run["over"]["memory/peak"] == "seq_len"
        assert run["group"] == "a sweep"
        assert run["summary"].get("noisy") == (
            "forward/time at 512, forward/tflops at 512" if backend == "flash2" else None
        )


def test_a_line_is_found_by_what_it_holds_fixed(folder: Path) -> None:
    """Filters and groups of a dashboard ask a case's own words; where a line has many values, it has none."""
    for run in offline(folder):
        if run["job_type"] == "series":
            case, told = run["config"]["case"], run["config"]["series"]
            assert case["backend"] in ("flash2", "naive")
            assert case["shape"] == {"batch_size": 16, "num_heads": 32, "emb_dim": 2048, "dtype": "float16"}
            assert told == {"axis": "seq_len", "moving": [], "held": "b16 h32 e2048 causal kernel"}
            assert run["config"]["machine"]["name"] == "NVIDIA H100 80GB HBM3"


def test_the_baseline_timed_again_is_a_run_of_its_own_kind(folder: Path) -> None:
    runs = offline(folder)
    twins = [run for run in runs if run["job_type"] == "aa_repeat"]
    assert len(twins) == 6 and all(run["name"].startswith("naive (again) b16 s") for run in twins)
    assert not any(key.startswith("at/") for run in twins for key in run["summary"])
    assert sum(run["job_type"] == "case" for run in runs) == 18


def test_a_noisy_number_is_marked_in_its_run_and_in_the_table(folder: Path) -> None:
    runs = offline(folder)
    marked = {
        run["name"]: run["summary"]["noisy"] for run in runs if run["job_type"] == "case" if "noisy" in run["summary"]
    }
    name = "flash2 b16 s512 h32 e2048 causal kernel"
    assert marked == dict.fromkeys((name, f"{name} round=1"), "forward/time, forward/tflops")
    (summary,) = (run for run in runs if run["job_type"] == "summary")
    table = json.loads(summary["files"][summary["summary"]["cases"]["path"]])
    place = table["columns"].index("noisy")
    assert [row[place] for row in table["data"]].count("forward/time, forward/tflops") == 2


def test_the_summary_holds_this_sweeps_report_and_figures(folder: Path) -> None:
    (summary,) = (run for run in offline(folder) if run["job_type"] == "summary")
    _assert_pictures(summary, folder)
    assert "figures/earlier" not in summary["summary"]


def test_they_reach_a_server_from_a_moved_folder(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    shutil.rmtree(moved / "report")
    (run,) = (run["folder"] for run in offline(moved) if run["job_type"] == "summary")
    with closing(Loopback()) as server:
        subprocess.run(
            [sys.executable, "-m", "wandb", "sync", str(run)], check=True, timeout=60, capture_output=True,
            cwd=tmp_path, env=environment(tmp_path, WANDB_CACHE_DIR=str(tmp_path), **server.environment()),
        )  # fmt: skip
        (arrived,) = server.runs.values()
        _assert_pictures(arrived, folder)


def test_what_is_too_much_is_left_out_by_name(tmp_path: Path) -> None:
    with sweep(tmp_path) as run:
        run("limit", {"MOST_BYTES": 3000})
        run("open", {"folder": "x", "mode": "offline"})
        run("write", 0)
        (tmp_path / "work" / "x" / "report" / "figures").mkdir(parents=True)
        (tmp_path / "work" / "x" / "report" / "report.html").write_text(HTML)
        Image.new("L", (3, 2)).save(tmp_path / "work" / "x" / "report" / "figures" / "one.png")
        run("close")
    (summary,) = (run for run in offline(tmp_path / "work" / "x") if run["job_type"] == "summary")
    assert summary["summary"]["report/left_out"].startswith("report.html (")
    assert {"cases", "figures/one"} <= set(summary["summary"]) and "report" not in summary["summary"]


def _assert_pictures(run: dict[str, Any], folder: Path) -> None:
    assert run["files"][run["summary"]["report"]["path"]] == HTML.encode()
    for name in ("one", "two"):
        sent = run["files"][run["summary"][f"figures/{name}"]["path"]]
        assert sent == (folder / "report" / "figures" / f"{name}.png").read_bytes()


def _seen(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith("_")}
