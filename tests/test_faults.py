"""What a sweep survives: workers that die or hang, its own death, full disks, torn lines; what a rerun makes of it."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import forkserver
from pathlib import Path

import pytest
from conftest import ROOT, Lab, Told, environment, words_with_defaults

from attn_lab.cli import main

CRASHES = '''
"""Backends that end their process, or never end."""

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from attn_lab.backends.naive import Naive


class Killed(Naive):
    def prepare(self, request, machine):
        print("about to be killed", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)


class Exits(Naive):
    def prepare(self, request, machine):
        os._exit(3)


class Segfaults(Naive):
    def prepare(self, request, machine):
        ctypes.string_at(0)


class Hangs(Naive):
    def prepare(self, request, machine):
        Path("hanging").write_text(str(os.getpid()))
        while True:
            time.sleep(1)


class KilledOnce(Naive):
    def prepare(self, request, machine):
        if not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(request, machine)
'''
PLAIN = ("probe=[accuracy]", "passes=[forward]", "shape.seq_len=16", "name=x")


@pytest.fixture
def crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Lays down strangers; returns the environment in which another process finds them."""
    (tmp_path / "their_crashes.py").write_text(CRASHES)
    (tmp_path / "conf/backend").mkdir(parents=True)
    for name in ("killed", "exits", "segfaults", "hangs", "killed_once"):
        target = "".join(word.capitalize() for word in name.split("_"))
        (tmp_path / f"conf/backend/{name}.yaml").write_text(f"_target_: their_crashes.{target}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_crashes", raising=False)
    return {"PYTHONPATH": f"{ROOT}:{tmp_path}"}


def answers(told: Told) -> dict[str, str]:
    """The last status of each case, by id."""
    return {record["case"]["id"]: record["status"] for record in told.records}


def start(folder: Path, *words: str, env: dict[str, str] | None = None, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "attn_lab", *words_with_defaults(words)],
        cwd=folder, env=environment(folder, env or {}), stdout=subprocess.DEVNULL, **more,
    )  # fmt: skip


def wait_until(true, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def lines_of(folder: Path) -> int:
    file = folder / "runs/x/records.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"  # dead; only nobody has asked how


def test_a_worker_that_dies_costs_its_case_and_says_how(lab, crashes):
    told = lab(*PLAIN, "--config-dir", "conf", "backend=naive,killed,exits,segfaults,sdpa_math", **crashes)
    assert told.code == 1 and "Traceback" not in told.err
    assert told.statuses == ["ok", "crashed", "crashed", "crashed", "ok"], [r["reasons"] for r in told.records]
    killed, exits, segfaults = (record["reasons"] for record in told.records[1:4])
    assert "signal 9 (SIGKILL)" in killed[0] and "about to be killed" in killed[1]
    assert "exit code 3" in exits[0]
    assert "signal 11 (SIGSEGV)" in segfaults[0] and "their_crashes.py" in segfaults[1]  # where, from faulthandler
    assert "5 cases: 3 crashed, 2 ok" in told.out
    assert "crashed: killed 1×16×4×128 float32: its process was ended by signal 9 (SIGKILL) in prepare" in told.out
    assert "3 cases left; to go on: attn-lab probe=[accuracy]" in told.out.replace("'", "")


def test_a_case_that_never_ends_is_ended_and_says_where_it_was(crew, crashes):
    told = crew(*PLAIN, "--config-dir", "conf", "backend=hangs,naive", "measure.timeout=8")
    assert told.code == 1
    assert told.statuses == ["timeout", "ok"], [record["reasons"] for record in told.records]
    limit, last = told.records[0]["reasons"]
    assert "prepare after 8 s (measure.timeout)" in limit and "their_crashes.py" in last
    assert is_gone(int((told.folder / "hanging").read_text()))


def test_a_crash_that_was_the_machine_s_doing_is_made_good_by_the_same_command(crew, crashes):
    words = (*PLAIN, "--config-dir", "conf", "backend=naive,killed_once,sdpa_math")
    first = crew(*words)
    assert first.statuses == ["ok", "crashed", "ok"]
    before = first.lines
    again = crew(*words)
    assert again.code == 0 and again.lines[:3] == before
    assert len(again.lines) == 4 and list(answers(again).values()) == ["ok"] * 3
    assert "3 of 3 cases, 2 of them before" in again.out and "to go on" not in again.out


def killed_after(seconds: float, *words: str, at_work: Path | None = None) -> None:
    """The front door in a fork of this process, which has imported all it needs, killed after so long, or when done.

    `at_work`: so long after it has written a record in this folder.
    """
    before = lines_of(at_work) if at_work else 0
    pid = os.fork()
    if not pid:
        # The server that forks workers is there; only, it is no child of this one, which would ask after it.
        forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None
        with open(os.devnull, "w") as nowhere:
            for stream in (1, 2):
                os.dup2(nowhere.fileno(), stream)
        try:
            main(words_with_defaults(words))
        finally:
            os._exit(0)
    if at_work:
        wait_until(lambda: lines_of(at_work) > before)
    until = time.monotonic() + seconds
    while time.monotonic() < until and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


KILLS = int(os.environ.get("ATTN_LAB_KILLS", "5"))  # moments at which a sweep is killed; 20 take a minute


@pytest.mark.timeout(240)
def test_a_sweep_killed_at_random_moments_ends_as_one_that_was_not(crew, tmp_path):
    words = ("probe=[accuracy]", "passes=[forward]", "shape.seq_len=16", "seed=range(60)")
    whole = answers(crew(*words, "name=whole"))
    begin = time.monotonic()
    crew(*words, "name=whole", "resume=never")
    took = time.monotonic() - begin
    assert list(whole.values()) == ["ok"] * 60
    shutil.rmtree(tmp_path / "runs")
    words = (*words, "name=x")
    moment, file = random.Random(5), tmp_path / "runs/x/records.jsonl"
    kept, grown, reach = b"", 0, 0.7 * took
    for number in range(KILLS):
        if number < 2:  # these hit a sweep at work, however fast the machine is by now
            killed_after(moment.uniform(0, 0.1), *words, at_work=tmp_path)
        else:
            killed_after(moment.uniform(0, reach), *words)
        now = file.read_bytes() if file.exists() else b""
        assert now.startswith(kept)
        grown += len(now) > len(kept)
        reach = 0.7 * took if len(now) > len(kept) else 1.25 * reach  # a machine may have got slower meanwhile
        kept = now[: now.rfind(b"\n") + 1]
    assert grown >= 2
    ended = crew(*words)
    assert ended.code == 0 and b"".join(ended.lines).startswith(kept)
    assert answers(ended) == whole
    assert Counter(record["case"]["id"] for record in ended.records).most_common(1)[0][1] == 1  # none was run twice


def test_a_worker_does_not_outlive_its_sweep(tmp_path, crashes):
    process = start(tmp_path, *PLAIN, "--config-dir", "conf", "backend=hangs", env=crashes)
    wait_until(lambda: (tmp_path / "hanging").exists() and (tmp_path / "hanging").read_text())
    worker = int((tmp_path / "hanging").read_text())
    assert not is_gone(worker)
    process.kill()
    process.wait()
    wait_until(lambda: is_gone(worker))


def test_of_two_sweeps_in_one_folder_the_second_is_told_of_the_first_and_a_dead_one_is_no_hindrance(
    door, tmp_path, crashes
):
    process = start(tmp_path, *PLAIN, "--config-dir", "conf", "backend=hangs", env=crashes)
    wait_until(lambda: (tmp_path / "hanging").exists())
    second = door(*PLAIN)
    assert second.code == 2 and second.err.count("\n") == 1
    assert f"in use by process {process.pid} on {os.uname().nodename}" in second.err
    process.kill()
    process.wait()
    assert door(*PLAIN).statuses == ["ok"]


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_a_folder_that_resumes(times, crew, tmp_path):
    words = ("probe=[accuracy]", "passes=[forward]", "shape.seq_len=16", "seed=range(30)", "name=x")
    process = start(tmp_path, *words, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: lines_of(tmp_path) >= 2)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in err
    before = (tmp_path / "runs/x/records.jsonl").read_bytes()
    told = crew(*words)
    assert told.code == 0 and b"".join(told.lines).startswith(before)
    assert len(told.records) == len(answers(told)) == 30


FOUR = ("backend=naive,sdpa_math", "shape.seq_len=16,32", "probe=[accuracy]", "passes=[forward]", "name=x")


@pytest.fixture(scope="module")
def four(lab_in: Lab, tmp_path_factory: pytest.TempPathFactory) -> Told:
    told = lab_in(tmp_path_factory.mktemp("four"), *FOUR)
    assert told.statuses == ["ok"] * 4
    return told


@pytest.fixture
def records(four: Told, tmp_path: Path) -> Path:
    """A copy of the four, to be spoilt."""
    shutil.copytree(four.folder / "runs", tmp_path / "runs")
    return tmp_path / "runs/x/records.jsonl"


def test_the_same_command_again_runs_nothing_and_shows_what_is_there(four, records, door):
    again = door(*FOUR)
    assert again.code == 0 and again.lines == four.lines
    assert "4 done before (resume=auto)" in again.out and "4 cases: 4 ok" in again.out
    assert "4 of 4 cases, 4 of them before" in again.out


def test_resume_never_asks_everything_again(four, records, door):
    again = door(*FOUR, "resume=never")
    assert again.lines[:4] == four.lines and len(again.lines) == 8
    assert [record["case"]["id"] for record in again.records[4:]] == [r["case"]["id"] for r in four.records]


@pytest.mark.parametrize(("mode", "status", "asked"), [
    ("auto", "oom", 0), ("auto", "incorrect", 0), ("auto", "unsupported", 0), ("auto", "error", 1),
    ("auto", "crashed", 1),
    ("auto", "timeout", 1), ("failed", "unsupported", 0), ("failed", "incorrect", 1), ("failed", "oom", 1),
])  # fmt: skip
def test_what_counts_as_an_answer(mode, status, asked, records, door):
    lines = records.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), "status": status, "reasons": ["so it was"]})
    records.write_text("\n".join(lines) + "\n")
    again = door(*FOUR, f"resume={mode}")
    assert len(again.lines) == 4 + asked
    assert len(answers(again)) == 4


def test_resume_takes_three_words(door):
    told = door("resume=yes")
    assert told.code == 2 and "auto, failed, never; got 'yes'" in told.err


def test_a_torn_last_line_is_put_aside_and_its_case_run_again(four, records, door):
    whole = records.read_bytes()
    records.write_bytes(whole[:-100])
    again = door(*FOUR)
    assert again.code == 0 and "its last line was torn" in again.out
    assert again.lines[:3] == four.lines[:3] and answers(again) == answers(four)
    assert (records.parent / "records.jsonl.torn").read_bytes() == four.lines[3][:-100] + b"\n"


def test_a_last_line_that_only_lacks_its_end_is_given_it(four, records, door):
    records.write_bytes(records.read_bytes()[:-1])
    again = door(*FOUR)
    assert again.lines == four.lines and "torn" not in again.out


def test_a_corrupt_line_is_told_and_its_case_run_again(four, records, door):
    lines = [four.lines[0], b'{"schema": 1, "case"\x00\xff garbage\n', *four.lines[2:]]
    records.write_bytes(b"".join(lines))
    again = door(*FOUR)
    assert "not read: runs/x/records.jsonl:2" in again.out
    assert [line for line in again.lines[:4] if line in four.lines] == [lines[0], *lines[2:]]
    assert json.loads(again.lines[4])["case"]["id"] == four.records[1]["case"]["id"]


def test_a_folder_of_another_version_is_stale_not_lost(four, records, door):
    text = records.read_text()
    for number, record in enumerate(four.records):
        text = text.replace(f'"id":"{record["case"]["id"]}"', f'"id":"{number:08x}"')
        text = text.replace(f'"torch":"{record["provenance"]["versions"]["torch"]}"', '"torch":"1.0"')
    records.write_text(text)
    before = records.read_bytes()
    looked = door("status", *FOUR)
    assert looked.code == 0 and looked.out.count("stale") == 4 + 1 and "torch 1.0 → " in looked.out
    assert records.read_bytes() == before
    again = door(*FOUR)
    assert records.read_bytes().startswith(before) and len(again.lines) == 8
    assert {record["case"]["id"] for record in again.records[4:]} == set(answers(four))
    assert "4 cases: 4 ok" in again.out


def test_another_source_of_a_stranger_s_backend_makes_its_cases_stale(door, lab, crashes, tmp_path):
    words = (*PLAIN, "--config-dir", "conf", "backend=naive,killed_once")
    (tmp_path / "killed").touch()
    assert door(*words).statuses == ["ok", "ok"]
    (tmp_path / "their_crashes.py").write_text(CRASHES + "\n# a better one\n")
    looked = lab("status", *words, **crashes)
    (naive,) = (line for line in looked.out.splitlines() if " naive " in line)
    (theirs,) = (line for line in looked.out.splitlines() if "killed_once" in line)
    assert naive.split()[1] == "done" and theirs.split()[1] == "stale" and "source " in theirs


def test_a_clock_that_was_set_back_loses_nothing(four, records, door):
    lines = [json.loads(line) for line in four.lines]
    for line in lines:
        line["provenance"]["started"] = "2099-01-01T00:00:00.000+00:00"
    lines[1].update(status="error", reasons=["in the future"])
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = door(*FOUR)
    assert len(again.lines) == 5 and answers(again) == answers(four)
    assert "4 cases: 4 ok" in again.out
    assert len(door(*FOUR).lines) == 5


def test_plan_runs_and_writes_nothing(door):
    looked = door("status", *FOUR)
    assert looked.code == 0 and "4 cases: 0 done, 0 stale, 4 todo" in looked.out
    assert looked.out.count("not run yet") == 4
    assert list(looked.folder.iterdir()) == []


def test_bad_words_to_plan_are_one_line(door):
    told = door("status", "shape.seq_len=abc")
    assert told.code == 2 and "shape.seq_len" in told.err and told.err.count("\n") == 1


def test_a_disk_that_was_full_resumes_to_the_whole(crew, tmp_path):
    (tmp_path / "runs").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(tmp_path / "runs")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        words = ("probe=[accuracy]", "passes=[forward]", "shape.seq_len=16", "seed=range(20)", "name=x")
        full = crew(*words)
        assert full.code == 2 and "No space left" in full.err and full.err.count("\n") == 1
        kept = full.lines
        assert 1 <= len(kept) < 20 and "to go on: attn-lab" in full.out
        subprocess.run(["mount", "-o", "remount,size=4m", str(tmp_path / "runs")], check=True)
        told = crew(*words)
        assert told.code == 0 and told.lines[: len(kept)] == kept
        assert list(answers(told).values()) == ["ok"] * 20 and len(told.lines) == 20
    finally:
        subprocess.run(["umount", str(tmp_path / "runs")], check=True)


def test_a_memory_limit_is_met_by_a_record_and_the_sweep_goes_on(tmp_path):
    """Scores of 16 GB where 4 are allowed."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, 4 * 2**30))  # noqa: E731
    process = start(
        tmp_path, "probe=[accuracy]", "passes=[forward]", "name=x", "shape.num_heads=64", "shape.emb_dim=64",
        "shape.seq_len=8000,16", preexec_fn=limit,
    )  # fmt: skip
    assert process.wait(timeout=100) == 0
    lines = (tmp_path / "runs/x/records.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["oom", "ok"]


def test_rivals_stay_with_one_worker_and_several_share_the_rest(crew):
    told = crew("backend=naive,sdpa_math", "shape.seq_len=16,32,48,64", "probe=[accuracy]", "passes=[forward]",
               "hydra.launcher.count=2")  # fmt: skip
    assert told.code == 0 and Counter(told.statuses) == {"ok": 8}
    assert "2 workers share this CPU, and disturb each other's times" in told.out
    workers: dict[str, set[str]] = {}
    for line in told.out.splitlines():
        if " CPU " in line and "/8 " in line:
            _, _, number, _, shape, *_ = line.split()
            workers.setdefault(shape, set()).add(number)
    assert len(workers) == 4 and all(len(one) == 1 for one in workers.values())
    begun = sorted(told.records, key=lambda record: record["provenance"]["started"])
    assert [case["case"]["shape"]["seq_len"] for case in begun[:2]] in ([64, 48], [48, 64])  # the largest first


@pytest.mark.parametrize("count", ["0", "-1"])
def test_a_count_of_workers_that_cannot_be_is_refused(count, crew):
    told = crew(f"hydra.launcher.count={count}")
    assert told.code == 2 and "hydra.launcher.count" in told.err and list(told.folder.iterdir()) == []


HOLDER = """
import sys
from attn_lab.run.gpu_lock import GpuLocks
locks = GpuLocks(["a-card"])
for line in locks.acquire():
    if line:
        print(line, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_two_sweeps_of_one_user_do_not_share_a_gpu(tmp_path):
    def holder() -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", HOLDER], env=environment(tmp_path, {"XDG_RUNTIME_DIR": str(tmp_path)}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    first = holder()
    assert first.stdout.readline() == "held\n"
    second = holder()
    assert second.stdout.readline() == f"GPU a-card is in use by another sweep, process {first.pid}: waiting for it\n"
    first.kill()
    first.wait()
    assert second.stdout.readline() == "held\n"
    second.kill()
    second.wait()
