"""Sweeps beyond one machine: two nodes of Ray started by hand, Slurm's jobs (as submitit runs them); what they lose."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, Lab, Told, environment, words_with_defaults

pytest.importorskip("ray", reason="extra: ray")
pytest.importorskip("submitit", reason="extra: slurm")

RAY = str(Path(sys.executable).with_name("ray"))
SIX = ("backend=naive,sdpa_math", "shape.seq_len=16,32,48", "probe=[accuracy]", "passes=[forward]", "name=x")
SLURM = ("hydra/launcher=slurm", "hydra.launcher.cluster=local")


class Cluster:
    """What the README says to do for Ray: a token, a head, a node that joins it, each with one CPU: a hand fills it."""

    def __init__(self, folder: Path):
        self.folder, self.nodes = folder, list[subprocess.Popen]()
        # No home of theirs has it, so that a test can go without.
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / ".ray/auth_token")}
        subprocess.run([RAY, "get-auth-token", "--generate"], env=environment(folder, {}), capture_output=True)
        self.address = self.start("ray start --address='(.+?)'", "--head", "--port=0", "--include-dashboard=false")
        self.words = ("hydra/launcher=ray", f"hydra.launcher.address={self.address}")
        self.join()

    def join(self) -> None:
        self.start("(runtime started)", f"--address={self.address}", DOOMED="yes")

    def start(self, until: str, *words: str, **more: str) -> str:
        """A node, and what `until` finds in what it says."""
        more = {**more, **self.token, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
        node = subprocess.Popen(
            [RAY, "start", *words, "--num-cpus=1", "--block"], env=environment(self.folder, more),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.nodes.append(node)
        found = next(filter(None, (re.search(until, line) for line in node.stdout)), None)
        assert found, "it did not come up"
        return found[1]

    def kill(self, node: subprocess.Popen) -> None:
        """The power fails: all that belongs to it ends at once."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                _, _, _, session = stat.read_text().rpartition(") ")[2].split()[:4]
                if int(session) == node.pid:
                    os.kill(int(stat.parent.name), signal.SIGKILL)
        node.wait()
        node.stdout.close()

    def stop(self) -> None:
        for node in self.nodes:
            self.kill(node)


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("ray"))
    yield cluster
    cluster.stop()


THEIRS = """
import os
import time
from pathlib import Path

from attn_lab.backends.naive import Naive


class Killed(Naive):
    def prepare(self, request, machine):
        os.kill(os.getpid(), 9)


class InCompany(Naive):
    def prepare(self, request, machine):
        Path(f"{os.getpid()}.came").touch()
        while len(list(Path().glob("*.came"))) < 2:
            time.sleep(0.1)
        return super().prepare(request, machine)


class Doomed(Naive):
    def prepare(self, request, machine):
        if "DOOMED" in os.environ:
            Path("doomed").touch()
            time.sleep(99)
        while not Path("doomed").exists():
            time.sleep(0.1)
        return super().prepare(request, machine)
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Backends of somebody's own; returns the environment in which another process finds them."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    (tmp_path / "conf/backend").mkdir(parents=True)
    for name, target in (("killed", "Killed"), ("in_company", "InCompany"), ("doomed", "Doomed")):
        (tmp_path / f"conf/backend/{name}.yaml").write_text(f"_target_: theirs.{target}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    return {"PYTHONPATH": f"{ROOT}:{tmp_path}"}


def start(folder: Path, *words: str, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "attn_lab", *words_with_defaults(words)],
        cwd=folder, env=environment(folder, more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def hands(told: Told) -> dict[str, set[str]]:
    """By shape, whose line told of it."""
    found: dict[str, set[str]] = {}
    for line in told.out.splitlines():
        if "/6 " in line:
            _, hand, _, shape, *_ = line.split()
            found.setdefault(shape, set()).add(hand)
    return found


def shards(folder: Path) -> list[dict]:
    lines = [line for file in folder.glob("runs/x/shards/*.jsonl") for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def wait_until(true, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def is_whole(told: Told) -> bool:
    counts = Counter(record["case"]["id"] for record in told.records)
    return told.code == 0 and told.statuses == ["ok"] * 6 and set(counts.values()) == {1}


def test_two_nodes_of_ray_fill_one_table_and_any_launcher_goes_on_from_there(ray, theirs, lab: Lab, crew: Lab):
    words = (*SIX, "--config-dir", "conf", "backend=naive,in_company,killed", "shape.seq_len=16,32")
    told = lab(*words, *ray.words, **theirs, **ray.token)
    found = {(record["case"]["backend"], record["case"]["shape"]["seq_len"]): record for record in told.records}
    assert len(found) == len(told.records) == 6, told.out + told.err
    for (backend, _), record in found.items():
        assert record["status"] == ("crashed" if backend == "killed" else "ok"), record["reasons"]
        if backend == "killed":
            assert "signal 9 (SIGKILL) in prepare" in record["reasons"][0]
    by_shape = hands(told)
    assert len(by_shape) == 2 and all(len(one) == 1 for one in by_shape.values())  # rivals share a card
    assert len(set.union(*by_shape.values())) == 2
    assert told.code == 1 and "2 crashed" in told.out and "2 cases left; to go on: attn-lab" in told.out
    assert sorted(path.name for path in (told.folder / "runs/x").iterdir()) == [".lock", "records.jsonl"]
    before = told.lines
    again = crew(*words)
    assert again.lines[:6] == before and again.statuses[6:] == ["crashed"] * 2 and "4 of them before" in again.out


@pytest.mark.parametrize("threads", [None])
def test_a_hand_of_ray_has_the_threads_that_a_worker_here_would_have(threads, ray, lab: Lab, monkeypatch):
    """Ray gives a task one where its node says nothing, and the answers would count for no other launcher."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    given = {"OMP_NUM_THREADS": threads} if threads else {}
    told = lab(*SIX, *ray.words, "shape.seq_len=16", **ray.token, **given)
    assert told.code == 0 and told.statuses == ["ok"] * 2, told.out + told.err
    before = told.lines
    again = lab(*SIX, "shape.seq_len=16", **given)
    assert again.lines == before and "2 of them before" in again.out, again.out


def test_a_hand_that_can_have_no_machine_is_waited_for_aloud_and_ctrl_c_is_heeded(ray, tmp_path: Path):
    sweep = start(tmp_path, *SIX, *ray.words, "+hydra.launcher.remote.num_gpus=1", **ray.token)
    told = next(line for line in sweep.stdout if "waiting for" in line)
    assert "with 1 CPU, 1 GPU free; it has 2 × (1 CPU, 0 GPU), free 2 CPU, 0 GPU" in told
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(30) == 130
    sweep.stdout.close()
    assert not (tmp_path / "runs").exists()


def test_who_lacks_a_cluster_s_token_is_told_where_it_is(ray, lab: Lab):
    told = lab(*SIX, *ray.words, RAY_AUTH_MODE="token")
    assert told.code == 2 and "~/.ray/auth_token" in told.err and told.err.count("\n") == 1, told.err


def test_a_node_that_dies_costs_the_batch_at_hand_and_the_rest_can_be_done(ray, theirs, crew: Lab, tmp_path: Path):
    words = (*SIX, "--config-dir", "conf", "backend=naive,doomed", "seed=range(5)", "shape.seq_len=16")
    sweep = start(tmp_path, *words, *ray.words, **theirs, **ray.token)
    wait_until((tmp_path / "doomed").exists)
    ray.kill(ray.nodes.pop())
    out, _ = sweep.communicate(timeout=90)
    ray.join()
    assert sweep.returncode == 1 and out.count("a remote worker failed: ") == 1 and "NodeDiedError" in out, out
    kept = (tmp_path / "runs/x/records.jsonl").read_bytes().count(b"\n")
    assert kept == 9 and "1 case left; to go on: attn-lab" in out
    told = crew(*words)
    assert told.statuses == ["ok"] * 10 and len({record["case"]["id"] for record in told.records}) == 10


def test_a_head_that_dies_ends_the_sweep_with_its_summary(theirs, crew: Lab, tmp_path: Path):
    cluster = Cluster(tmp_path / "own")
    try:
        words = (*SIX, "--config-dir", "conf", "backend=naive,doomed", "seed=range(5)", "shape.seq_len=16")
        sweep = start(tmp_path, *words, *cluster.words, **theirs, **cluster.token)
        wait_until((tmp_path / "doomed").exists)
        cluster.kill(cluster.nodes.pop(0))
        out, _ = sweep.communicate(timeout=120)  # left alone, Ray ends it after a minute, and nothing is said
    finally:
        cluster.stop()
    assert sweep.returncode == 1 and "Ray's head at" in out and "left; to go on: attn-lab" in out, out
    told = crew(*words)
    assert set(told.statuses) == {"ok"} and len({record["case"]["id"] for record in told.records}) == 10


def test_jobs_of_slurm_fill_one_table_and_samples_lie_beside_it(lab: Lab):
    told = lab(*SIX, *SLURM, "hydra.launcher.count=2", "probe=[accuracy,timing]")
    assert is_whole(told), told.out + told.err
    for record in told.records:
        (artifact,) = record["artifacts"]
        assert (told.folder / "runs/x" / artifact["path"]).stat().st_size == artifact["size"]


def test_what_jobs_found_after_their_sweep_was_killed_is_kept_and_not_asked_again(door: Lab, crew: Lab, tmp_path: Path):
    """Slurm's jobs outlive the command: their shards are merged where they are read."""
    sweep = start(tmp_path, *SIX, *SLURM)
    wait_until(lambda: list(tmp_path.glob("runs/x/.queues/*/at.*")))
    sweep.kill()
    sweep.wait()
    wait_until(lambda: len(shards(tmp_path)) == 6)
    assert len((tmp_path / "runs/x/records.jsonl").read_bytes().splitlines()) < 6
    looked = door("status", *SIX)
    assert "6 cases: 6 done, 0 stale, 0 todo" in looked.out
    again = crew(*SIX)
    assert again.code == 0 and "6 of 6 cases, 6 of them before" in again.out and "6 cases: 6 ok" in again.out


def test_a_hand_that_is_killed_is_told_and_the_same_command_does_the_rest(lab: Lab, tmp_path: Path):
    words = (*SIX, "seed=range(40)", "shape.seq_len=16", *SLURM)
    sweep = start(tmp_path, *words)
    wait_until(lambda: shards(tmp_path))
    (at,) = tmp_path.glob("runs/x/.queues/*/at.*")
    os.kill(int(at.name.rpartition("-")[2]), signal.SIGKILL)
    out, _ = sweep.communicate(timeout=90)
    kept = (tmp_path / "runs/x/records.jsonl").read_bytes()
    assert sweep.returncode == 1 and "a remote worker failed: " in out and "left; to go on: attn-lab" in out
    assert 1 <= kept.count(b"\n") < 80
    told = lab(*words)
    assert told.code == 0 and b"".join(told.lines).startswith(kept)
    assert told.statuses == ["ok"] * 80 and len({record["case"]["id"] for record in told.records}) == 80


SICK = """
import os
import sys
if os.environ["SICK"] in " ".join(sys.orig_argv):
    print("libsick.so: cannot open shared object file", file=sys.stderr)
    os._exit(3)
"""


@pytest.mark.parametrize(
    ("sick", "says"), [("remote_worker serve", " (exit code 3)"), ("submitit.core._submit", " (log: ")]
)
def test_a_job_that_cannot_start_says_why(sick, says, lab: Lab, tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(SICK)
    told = lab(*SIX, *SLURM, SICK=sick, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert f": cannot open shared object file{says}" in told.out + told.err, told.out + told.err
    if sick == "remote_worker serve":  # the other is seen before anything is planned
        assert (
            told.code == 1
            and "a remote worker failed: job " in told.out
            and "6 cases left; to go on: attn-lab" in told.out
        )


def test_ctrl_c_ends_jobs_after_the_case_at_hand(lab: Lab, tmp_path: Path):
    words = (*SIX, "seed=range(20)", *SLURM)
    sweep = start(tmp_path, *words)
    wait_until(lambda: shards(tmp_path))
    sweep.send_signal(signal.SIGINT)
    out, _ = sweep.communicate(timeout=90)
    assert sweep.returncode == 130 and "to go on: attn-lab" in out
    kept = (tmp_path / "runs/x/records.jsonl").read_bytes().count(b"\n")
    assert 1 <= kept < 120 and not (tmp_path / "runs/x/shards").exists()


def test_a_machine_on_which_an_answer_would_be_another_is_told_and_gives_the_batch_back(tmp_path: Path, monkeypatch):
    from attn_lab.core.machine import detect
    from attn_lab.run.cluster.remote_worker import run_worker
    from attn_lab.run.cluster.task_queue import TaskQueue
    from attn_lab.run.plan import SweepSpec
    from attn_lab.selfcheck.harness import Harness

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    case = Harness(detect("cpu")).case("naive", "attn_lab.backends.naive.Naive", "probe=[accuracy]")
    other = type(case)(**{**vars(case), "basis": {**case.basis, "machine": "NVIDIA H100"}})
    (tmp_path / "runs/x").mkdir(parents=True)
    limits = {"file_mb": 64, "total_mb": 2048}
    queue = TaskQueue.create(tmp_path / "runs/x", SweepSpec("s", "attn-lab", "cpu", limits), [[case], [case, other]])
    with pytest.raises(RuntimeError, match=r": the same as where it was planned is expected; got .* of NVIDIA H100"):
        run_worker(["serve", str(queue.path)], str(tmp_path))
    assert [file.name for file in queue.path.glob("*.todo")] == ["00001.todo"] and len(shards(tmp_path)) == 1


@pytest.mark.parametrize(("launcher", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_without_its_package_a_launcher_names_the_extra(launcher, package, door: Lab, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    told = door(f"hydra/launcher={launcher}")
    assert told.code == 2 and f"attn-lab[{launcher}]" in told.err and told.err.count("\n") == 1


def test_another_s_launcher_of_the_same_name_is_no_hindrance(door: Lab):
    """hydra-ray-launcher stores one, too."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(group="hydra/launcher", name="ray", node={"_target_": "theirs", "ray": {}})
    told = door("hydra/launcher=ray", "hydra.launcher.count=0")
    assert (
        told.code == 2 and told.err == "attn-lab: hydra.launcher.count: expected at least 1, or null for all; got 0\n"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [(("hydra/launcher=ray", "hydra.launcher.address=127.0.0.1:1"), "expected a Ray cluster"),
     (("hydra/launcher=slurm",), "expected jobs to be taken"),  # no sbatch here
     ((*SLURM, "+hydra.launcher.no_such=1"), "no_such")],
)  # fmt: skip
def test_a_cluster_that_cannot_be_had_is_one_line_and_leaves_nothing(words, says, lab: Lab):
    told = lab(*words)
    assert told.code == 2 and says in told.err and told.err.count("\n") == 1, told.err
    assert not (told.folder / "runs").exists()


@pytest.mark.parametrize(
    ("output", "line"),
    [("", ""), ("a\n  b\n", "b"), ("attn-lab: x\nlater noise\n", "x"), ("RuntimeError: vm: y\n-----\n", "vm: y"),
     ("Traceback\n  torch.cuda.OutOfMemoryError: z\nbye", "torch.cuda.OutOfMemoryError: z")],
)  # fmt: skip
def test_the_line_that_says_what_went_wrong_is_found(output, line):
    from attn_lab.run.cluster.remote_worker import error_line

    assert error_line(output) == line


def test_what_a_hand_has_to_tell_is_told_once(tmp_path: Path):
    from attn_lab.run.cluster.task_queue import TaskQueue
    from attn_lab.run.plan import SweepSpec

    (tmp_path / "runs/x").mkdir(parents=True)
    queue = TaskQueue.create(tmp_path / "runs/x", SweepSpec("s", "attn-lab", "cpu", {}), [])
    queue.notify("vm-1", "GPU 0 is in use by another sweep")
    assert list(queue.notices()) == ["vm-1: GPU 0 is in use by another sweep"] and not list(queue.notices())
