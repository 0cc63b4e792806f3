"""What Hydra's override grammar can say: every combination is planned, or the line is refused before anything runs."""

import json
import os

import pytest

from attn_lab.config.command_line import checked
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import detect
from attn_lab.run.cluster.task_queue import TaskQueue
from attn_lab.run.plan import SweepSpec
from attn_lab.run.repro_command import configuration
from attn_lab.selfcheck.harness import Harness

ONE = ("probe=[accuracy]", "passes=[forward]")
PLANNED = {  # words → how many different cases they name
    "backend=naive,sdpa_math shape.seq_len=16,32 seed=1,2": 8,
    "shape=tiny,demo mask=document mask.lengths=[8,8],[16]": 4,
    "backend=glob([sdpa_*,naive],exclude=*_math) seed=sort(3,1)": 8,
    "backend=naive+sdpa_math,naive shape={seq_len:16},{seq_len:32}": 4,
    "seed=range(0,10,4) round=choice(0,1)": 6,
    "round=1,2 seed=${round},7": 4,
    "++seed=1,2": 2,
    "seed=1,2 seed=3,4,5": 3,  # the later of two words for one key is the one that counts
    "+hydra.sweeper.params.seed='1,2' round=0,1": 4,
    "passes=[forward],[forward,backward]": 2,
}


@pytest.mark.parametrize("words", PLANNED)
def test_every_combination_is_planned(words, door):
    given = words.split()
    told = door("status", *given, *(word for word in ONE if word.split("=")[0] not in words))
    assert told.code == 0, told.err
    assert f"{PLANNED[words]} cases: 0 done, 0 stale, {PLANNED[words]} todo" in told.out
    assert list(told.folder.iterdir()) == []


REFUSED = {  # words → what the one line names
    "experiment=demo,seed/seq_len name=x": "hydra.sweeper.params: expected one for the whole sweep",
    "seed=interval(0,1)": "INTERVAL",
    "seed=range(3,0)": "matches nothing",
    "experiment=glob(nothing*)": "matches nothing",
    "hydra.job.chdir=true": "hydra.job.chdir: ",
    "hydra.output_subdir=here": "hydra.output_subdir: ",
    "hydra.sweep.subdir=here": "hydra.sweep.subdir: ",
    "hydra.run.dir=here": "hydra.run.dir: ",
    "hydra.mode=RUN": "hydra.mode: ",
    "hydra/sweeper=basic": "hydra/sweeper: expected cases",
    "hydra/launcher=basic,workers": "hydra/launcher",
    "+hydra.callbacks.a._target_=os.getcwd": "hydra.callbacks.a._target_: ",
    "~hydra.launcher": "hydra.launcher: ",
    "hydra.searchpath=[pkg://nowhere]": "path=nowhere is not available",
    "seed=1 --config-name other": "--config-name other",
    "seed=1 -cn other": "--config-name other",
    "seed=1 --config-path /etc": "--config-path /etc",
    "seed=1 --config-dir /etc": "--config-dir: expected a folder with one of backend, ",
    "seed=1 --experimental-rerun job.pickle": "none that unpickles a file",
    "seed=1 --experimental-r job.pickle": "none that unpickles a file",
    "seed=1 --package shape": "--package beside --cfg",
    "shape@elsewhere=tiny": "shape@elsewhere",
    "~mask": "mask",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_planned_whole_is_one_line_and_leaves_nothing(words, door):
    told = door(*ONE, *words.split())
    assert told.code == 2 and told.err.count("\n") == 1 and REFUSED[words] in told.err, told.err
    assert list(told.folder.iterdir()) == []


def test_a_name_is_the_folder_as_it_is_written(door):
    for name in ("2026_11_28", "1e3", "true", "null", "0x10", "a[1]", "a b", "a=b", "-1", "~a", "007"):
        assert configuration([f"name={name}"]).name == name
    told = door("status", *ONE, "name=2026_11_28")
    assert told.code == 0 and "(runs/2026_11_28)" in told.out, told.err


@pytest.mark.parametrize("name", ["[a]", "{a:1}", "a,b", "", "choice(a,b)", "'a"])
def test_a_name_that_cannot_be_one_is_refused(name, door):
    told = door(*ONE, f"name={name}")
    assert told.code == 2 and told.err.count("\n") == 1 and "name" in told.err
    assert list(told.folder.iterdir()) == []


def test_an_experiment_that_would_change_the_working_directory_is_refused(door, tmp_path):
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/moves.yaml").write_text("# @package _global_\nhydra: {job: {chdir: true}}\n")
    told = door("experiment=moves", "--config-dir", "mine", *ONE)
    assert told.code == 2 and "hydra.job.chdir" in told.err and told.err.count("\n") == 1


def test_a_queue_takes_a_run_s_name_for_no_pattern(tmp_path):
    case = Harness(detect("cpu")).case("naive", "attn_lab.backends.naive.Naive", "probe=[accuracy]")
    run = tmp_path / "runs/a[1]*?"
    run.mkdir(parents=True)
    queue = TaskQueue.create(run, SweepSpec("a[1]*?-s", "attn-lab", "cpu", {}), [[case], [case]])
    assert [each.id for each in queue.claim("w[1]")] == [case.id]
    queue.give_back("w[1]")
    queue.heartbeat("w[1]", case, "accuracy")
    queue.notify("w[1]", "waits")
    assert list(queue.heartbeats()) == [("w[1]", case.id, "accuracy")] and list(queue.notices()) == ["w[1]: waits"]
    record = Harness(detect("cpu")).record(case)
    with queue.shard("w[1]") as shard:
        shard.append(record)
    assert [(worker, each.id) for worker, each in queue.answers({})] == [("w[1]", case.id)]
    queue.clear()
    assert list(run.iterdir()) == []


def test_the_command_of_a_case_is_never_another_reading_of_its_words():
    assert checked(["name=1e3", "name='x'", "seed=1", "++name=a"]) == ["name='1e3'", "name='x'", "seed=1", "++name='a'"]
    with pytest.raises(BadRequest, match=r"hydra\.mode"):
        checked(["hydra.mode=RUN"])


def test_a_queue_builds_no_callable_that_the_command_line_did_not_name(tmp_path):
    case = Harness(detect("cpu")).case("naive", "attn_lab.backends.naive.Naive", "probe=[accuracy]")
    run = tmp_path / "runs/x"
    run.mkdir(parents=True)
    path = TaskQueue.create(run, SweepSpec("s", "attn-lab", "cpu", {}), [[case], [case], [case], [case]]).path
    (todo, *others) = sorted(path.glob("*.todo"))
    plain = json.loads(todo.read_text())
    plain[0]["question"]["backend"] = {"_target_": "pathlib.Path.touch", "self": str(tmp_path / "ran")}
    todo.write_text(json.dumps(plain))
    with pytest.raises(BadRequest, match=r"00000\.todo has _target_=pathlib\.Path\.touch"):
        TaskQueue(path, ["theirs.Backend"]).claim("w")
    others[0].write_text("[" * 10**5)
    with pytest.raises(BadRequest, match="expected a file that the sweep wrote"):
        TaskQueue(path).claim("w")
    others[1].unlink()
    os.mkfifo(others[1])
    with pytest.raises(BadRequest, match="not a regular file"):
        TaskQueue(path).claim("w")
    (path / "spec.json").write_text(json.dumps(["../elsewhere", "attn-lab", "cpu", {}]))
    with pytest.raises(BadRequest, match="expected the queue of s"):
        TaskQueue(path).spec  # noqa: B018
    assert [each.id for each in TaskQueue(path).claim("w")] == [case.id] and not (tmp_path / "ran").exists()
