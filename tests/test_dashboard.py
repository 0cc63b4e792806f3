"""attn-lab dashboard: a workspace whose panels ask for what was logged, printed offline and saved by one mutation."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from wandb_loopback import KEY, Loopback
from wandb_sweep import environment, offline, sweep, swept

pytest.importorskip("wandb_workspaces", reason="the extra `dashboard` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb_workspaces.*")  # of its own making

GOLDEN = Path(__file__).parent / "golden" / "dashboard.json"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with runs/x: records over seq_len, and the W&B runs an offline sweep made of them."""
    with sweep(tmp_path_factory.mktemp("dashboard")) as run:
        run("open", {"folder": "runs/x", "mode": "offline"})
        for each in swept():
            run("write", each)
        run("close")
        folder = run.place / "work" / "runs" / "x"
    (folder / "records.jsonl").write_text("".join(each.line() for each in swept()))
    return folder.parents[1]


def told(place: Path, *words: str, **more: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "attn_lab", "dashboard", *words], cwd=place, capture_output=True, text=True, timeout=60,
        env=environment(place.parent, **more),
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def printed(place: Path) -> str:
    code, out, err = told(place, "runs/x", "--dry-run", "--entity", "somebody")
    assert (code, err) == (0, "")
    return out


def test_the_workspace_is_the_one_we_looked_at(printed: str) -> None:
    """Made again by: GOLDEN=1 pytest tests/test_dashboard.py; look at what changed before you keep it."""
    if os.environ.get("GOLDEN"):
        GOLDEN.write_text(printed, encoding="utf-8")
    assert printed == GOLDEN.read_text(encoding="utf-8")


def test_each_panel_asks_for_what_was_logged(place: Path, printed: str) -> None:
    """A key that nobody has logged is an empty panel, and W&B says nothing."""
    runs = offline(place / "runs" / "x")
    drawn = [run for run in runs if run["job_type"] == "series"]
    seen = 0
    for panel in panels(printed):
        config, kind = panel["config"], panel["viewType"]
        if kind == "Run History Line Plot":
            assert all({config["xAxis"], *config["metrics"]} <= set(row) for run in drawn for row in run["history"])
        elif kind == "Bar Chart":
            having = [run for run in runs if config["metrics"][0] in run["summary"]]
            assert {run["job_type"] for run in having} == {"case"} and having
            assert len({run["config"]["case"]["shape"]["seq_len"] for run in having}) == 1
        elif kind == "Weave":
            assert '"val": "cases"' in json.dumps(config)
            assert all("cases" in run["summary"] for run in runs if run["job_type"] == "summary")
        seen += 1
    assert seen > 10


def test_groups_filters_and_columns_lie_where_runs_have_them(place: Path, printed: str) -> None:
    runs = [run for run in offline(place / "runs" / "x") if run["job_type"] in ("case", "series")]
    section = json.loads(printed)["spec"]["section"]
    (runset,) = section["runSets"]
    (group,) = runset["grouping"]
    assert {_at(run, group["section"], group["name"]) for run in runs} == {"naive", "flash2", "flash3"}
    on = {each["key"]["name"]: each["value"] for each in runset["filters"]["filters"] if not each["disabled"]}
    assert on == {"group": ["a sweep"], "jobType": ["series", "case", "summary"]}
    off = {each["key"]["name"]: each for each in runset["filters"]["filters"] if each["disabled"]}
    assert off["status"]["value"] == ["ok", "oom", "unsupported"]
    assert off["case.value.shape.seq_len"]["value"] == [256, 512, 1024]
    cases = [run for run in runs if run["job_type"] == "case"]
    for name, each in off.items():
        assert all(_at(run, each["key"]["section"], name) in each["value"] for run in cases)
    ok = [run for run in cases if run["summary"]["status"] == "ok"]
    for column in runset["runFeed"]["columnOrder"]:
        part, _, name = column.partition(":")
        has = any if name == "noisy" else all
        assert part == "run" or has(_at(run, part, name) is not None for run in ok), column
    assert section["settings"]["maxRuns"] > 10


def test_a_backend_has_its_colour_whoever_else_is_there() -> None:
    few, many = colours(["flash2"]), colours(["flash2", "sdpa_cudnn", "naive", "a strangers own"])
    assert few["flash2"] == many["flash2"]
    assert len(set(many.values())) == 4


def test_names_with_quotes_are_names() -> None:
    name = 'it\'s "a" sweep \\'
    there = [line for line in swept() if line.case["backend"] == "flash2"]
    for line in there:
        line.case["backend"] = name
    section = made({name: there})["section"]
    assert section["runSets"][0]["filters"]["filters"][0]["value"] == [name]
    (key,) = section["customRunColors"]
    assert json.loads(unquote(key.rpartition(":")[2]))[0]["value"] == name


def test_two_machines_are_never_one_line() -> None:
    there = swept()
    for line in there:
        line.provenance["machine"]["name"], line.provenance["sweep"] = "A100", "another"
    spec = made({"a sweep": swept(), "another": there})
    (runset,) = spec["section"]["runSets"]
    assert [each["name"] for each in runset["grouping"]] == ["machine.value.name", "case.value.backend"]


def test_lines_that_meet_in_a_panel_are_said_to() -> None:
    other = swept()
    for line in other:
        line.case["shape"]["batch_size"] = 1
    sections = made({"one": swept(), "two": other})["section"]["panelBankConfig"]["sections"]
    (over,) = (section["panels"] for section in sections if section["name"] == "Over seq_len")
    said = " (mean and range of 2 lines a backend: filter by shape or group)"
    assert over and all(panel["config"]["chartTitle"].endswith(said) for panel in over)


def test_new_metrics_have_panels_once_they_are_measured() -> None:
    measured = swept()
    for line in measured:
        if line.status == "ok":
            line.metrics.update(
                {name: {"value": 0.5} for name in ("forward/gemm_fraction", "train_step/tokens_per_second")}
            )
            line.metrics["forward/time_graph"] = {"value": None, "note": "cannot be captured"}
    told = json.dumps(made({"one": measured}))
    assert "forward share of the GEMM rate over seq_len" in told and "train step tokens/s over seq_len" in told
    assert "CUDA graph" not in told, "it has no value anywhere"
    assert "GEMM" not in json.dumps(made({"one": swept()}))


def test_a_push_saves_what_was_printed_and_a_second_replaces_it(place: Path, printed: str) -> None:
    with closing(Loopback()) as server:
        server.runs["any"]["project"] = "attn_lab"
        for _ in range(2):
            code, out, err = told(place, "runs/x", "--push", "--entity", "somebody", **server.environment())
            dry = json.loads(printed)
            assert (code, err) == (0, "")
            assert out == f"{server.url}/somebody/attn_lab?nw={dry['name'][3:-2]}\n"
            (view,) = server.views.values()
            assert json.loads(view.pop("spec")) == dry["spec"]
            assert (view["entityName"], view["projectName"], view["type"]) == ("somebody", "attn_lab", "project-view")
            assert (view["name"], view["displayName"]) == (dry["name"], "attn_lab x")
            view["spec"] = json.dumps(dry["spec"])


def test_a_push_without_an_entity_goes_to_the_keys_own_and_needs_a_project(place: Path) -> None:
    with closing(Loopback()) as server:
        code, out, err = told(place, "runs/x", "--push", "--project", "nothing", **server.environment())
        assert (code, out, err.count("\n"), server.views) == (2, "", 1, {})
        assert err.startswith(
            "attn-lab: dashboard: expected a project nobody/nothing with the runs; the server knows none"
        )


@pytest.mark.parametrize(
    ("words", "more", "expected"),
    [
        (["runs/x"], {}, "dashboard: one of the arguments --dry-run --push is required"),
        (["nowhere", "--dry-run"], {}, "dashboard: expected run folders; got no such run folder: nowhere"),
        (["runs/x", "--push"], {}, "dashboard: expected a key and a server; got no API key for http"),
        (
            ["runs/x", "--push"],
            {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"},
            "dashboard: expected a key and a server; got no connection to 127.0.0.1:9 (Connection refused)",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    place: Path, words: list[str], more: dict[str, str], expected: str
) -> None:
    code, out, err = told(place, *words, **more)
    assert (code, out) == (2, "")
    assert err.startswith(f"attn-lab: {expected}") and err.count("\n") == 1


def test_without_wandb_workspaces_the_cure_is_told(place: Path) -> None:
    program = "import sys; sys.modules['wandb_workspaces'] = None; from attn_lab.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, "dashboard", "runs/x", "--dry-run"], cwd=place, capture_output=True, text=True,
        env=environment(place.parent),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(": pip install 'attn-lab[dashboard]'\n") and done.stderr.count("\n") == 1


def made(sweeps: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    from attn_lab.loggers.wandb.workspace import workspace

    view = workspace("x", sweeps, [], entity="e", project="p")[0]._to_model()
    spec: dict[str, Any] = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return spec


def colours(backends: list[str]) -> dict[str, str]:
    from attn_lab.loggers.wandb.workspace import workspace

    line = swept()[2]
    cases = [replace(line, case={**line.case, "backend": name, "id": name}) for name in backends]
    found = workspace("x", {"one": cases}, [], entity="e", project="p")[0].runset_settings.group_colors
    return {str(name): str(colour) for name, colour in found.items()}


def panels(printed: str) -> Iterator[dict[str, Any]]:
    sections = json.loads(printed)["spec"]["section"]["panelBankConfig"]["sections"]
    return (panel for section in sections for panel in section["panels"])


def _at(run: dict[str, Any], part: str, name: str) -> Any:
    """What W&B finds in a run at `config:case.value.backend` or `summary:status`."""
    if part == "summary":
        return run["summary"].get(name)
    first, _, rest = name.partition(".value")
    found = run["config"][first]
    for key in filter(None, rest.split(".")):
        found = found.get(key)
    return found
