"""Each of W&B's variables means for our runs what it means elsewhere, or nothing: no two runs ever share an id."""

from contextlib import closing
from pathlib import Path

import pytest
import yaml
from wandb_loopback import Loopback
from wandb_sweep import lines, offline, sweep

from attn_lab.loggers.wandb.environment import KEPT_AWAY, MEANT

pytest.importorskip("wandb", minversion="0.31")

RENAMED = {"app_url_override": "APP_URL", "root_dir": "DIR", "run_name": "NAME", "run_notes": "NOTES",
           "run_tags": "TAGS", "run_job_type": "JOB_TYPE", "email": "USER_EMAIL"}  # fmt: skip
KNOWN_AWAY = {name for names in KEPT_AWAY.values() for name in names.split()}


def of_the_library() -> set[str]:
    """All variables that the installed W&B reads: its list, and its settings, each of which has one."""
    import wandb
    from wandb import env

    said = {value for name, value in vars(env).items() if name.lstrip("_").isupper() and isinstance(value, str)}
    settings = {f"_{name[2:].upper()}" if name.startswith("x_") else RENAMED.get(name, name.upper())
                for name in wandb.Settings.model_fields}  # fmt: skip
    return {value for value in said if "WANDB" in value} | {f"WANDB_{name}" for name in settings}


def test_every_variable_of_the_library_is_decided() -> None:
    assert not of_the_library() - MEANT - KNOWN_AWAY
    assert not MEANT & KNOWN_AWAY


def test_what_is_kept_away_changes_nothing(tmp_path: Path) -> None:
    """All at once, half of them a word and half a number; `wandb agent`'s pair apart, and those that no list has."""
    names = sorted([*KNOWN_AWAY - {"WANDB_RUN_ID"}, "WANDB_ARTIFACTS", "WANDB_CONFIG", "WANDB_OF_2030"])
    away = {name: "nonsense" if number % 2 else "1" for number, name in enumerate(names)}
    with sweep(tmp_path, **away) as run:
        run("open", {"folder": "runs/x", "mode": "offline", "project": None})
        for number in range(2):
            run("write", number)
        where = run("close")
        assert (run.end()[1], where) == ([], "W&B: offline; send the runs by: attn-lab wandb-sync runs/x")
        assert run.strangers() == []
    found = offline(tmp_path / "work/runs/x")
    assert sorted(each["job_type"] for each in found) == ["case", "case", "summary"]
    assert len({each["id"] for each in found}) == 3 and {each["group"] for each in found} == {"a sweep"}
    assert len({each["name"] for each in found}) == 3 and {each["sweep"] for each in found} == {""}
    assert {each["project"] for each in found} == {"attn_lab"}
    cases = {each["config"]["case"]["id"]: each["config"] for each in found if each["job_type"] == "case"}
    for line in lines()[:2]:
        config, provenance = cases[line["case"]["id"]], dict(line["provenance"])
        del config["_wandb"]
        assert config == {**provenance.pop("config"), **provenance, "case": line["case"]}


def test_a_run_id_alone_is_no_run_of_ours(tmp_path: Path) -> None:
    with sweep(tmp_path, WANDB_RUN_ID="shared", WANDB_RESUME="must", WANDB_NAME="shared") as run:
        for folder in ("runs/one", "runs/two"):
            run("open", {"folder": folder, "mode": "offline"})
            for number in range(2):
                run("write", number)
            run("close")
        assert run.end()[1] == []
    one, two = (sorted(each["id"] for each in offline(tmp_path / f"work/runs/{name}")) for name in ("one", "two"))
    assert len({*one}) == 3 and "shared" not in one
    assert one == two  # the same records are the same runs


def test_what_means_something_means_it_for_each_run(tmp_path: Path) -> None:
    meant = {"WANDB_PROJECT": "theirs", "WANDB_ENTITY": "them", "WANDB_TAGS": "a,b", "WANDB_NOTES": "of the night",
             "WANDB_MODE": "offline", "WANDB_SILENT": "true"}  # fmt: skip
    with sweep(tmp_path, **meant) as run:
        for folder, project in (("runs/theirs", None), ("runs/mine", "mine")):
            run("open", {"folder": folder, "project": project})
            run("write", 0)
            run("close")
        assert run.end()[1] == []  # silent: the line on the mode as well
    for project in ("theirs", "mine"):
        for each in offline(tmp_path / "work/runs" / project):
            assert (each["project"], each["entity"]) == (project, "them")
            assert (each["tags"], each["notes"]) == (["a", "b"], "of the night")


def test_under_an_agent_one_run_is_the_agent_s_and_has_the_numbers_of_its_case(tmp_path: Path) -> None:
    """As `wandb agent` starts a command: the ids of its sweep and run, its folder, and its parameters in a file."""
    parameters = tmp_path / "config-agentrun.yaml"
    parameters.write_text(yaml.safe_dump({"wandb_version": 1, "backend": {"value": "flash2"}}))
    pair = {"WANDB_RUN_ID": "agentrun", "WANDB_SWEEP_ID": "thesweep", "WANDB_SWEEP_PARAM_PATH": str(parameters)}
    with closing(Loopback()) as server, sweep(tmp_path, WANDB_DIR=str(tmp_path), **pair, **server.environment()) as run:
        run("open", {"folder": "runs/x"})
        run("write", 0)
        where = run("close")
        assert where == f"W&B: {server.url}/nobody/attn_lab/runs/agentrun"
        assert run.end()[1] == []
        assert server.sweeps == {"agentrun": "thesweep"}
        assert {name == "agentrun": each["job_type"] for name, each in server.runs.items()} == {
            True: "summary", False: "case",
        }  # fmt: skip
        ours = server.runs["agentrun"]
        assert ours["summary"]["forward/time"] == 0.3051
        assert ours["config"]["case"]["backend"] == "flash2" and ours["exit"] == 0
