"""What a sweep survives beside its workers' deaths: helpers killed, streams closed, foreign files, links, strangers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, environment, words_with_defaults

from attn_lab.core.errors import BadRequest
from attn_lab.measure.memory_limit import available_bytes
from attn_lab.run.gpu_lock import GpuLocks
from attn_lab.run.local.messages import SIZE, Garbage, Probing, Receiver, send

PLAIN = ("probe=[accuracy]", "passes=[forward]", "shape.seq_len=16", "name=x")
SLOW = """
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

from attn_lab.backends.naive import Naive


class Slow(Naive):
    def prepare(self, request, machine):
        Path("slow").touch()
        time.sleep(4)
        return super().prepare(request, machine)
"""


def sweep(folder: Path, *words: str, env: dict[str, str] | None = None, **more) -> subprocess.Popen:
    command = [sys.executable, "-m", "attn_lab", *words_with_defaults(words)]
    return subprocess.Popen(command, cwd=folder, env=environment(folder, env or {}), **more)


def statuses(folder: Path) -> list[str]:
    lines = (folder / "runs/x/records.jsonl").read_text().splitlines()
    return [json.loads(line)["status"] for line in lines]


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def fork_server_of(pid: int) -> int:
    (found,) = [each for each in children(pid) if b"forkserver" in Path(f"/proc/{each}/cmdline").read_bytes()
                and children(each)]  # fmt: skip
    return found


@pytest.mark.parametrize("attempt", range(3))
def test_a_fork_server_that_is_killed_costs_the_case_at_hand_at_most(attempt, tmp_path: Path):
    (tmp_path / "slow_backend.py").write_text(SLOW)
    (tmp_path / "conf/backend").mkdir(parents=True)
    (tmp_path / "conf/backend/slow.yaml").write_text("_target_: slow_backend.Slow\n")
    process = sweep(tmp_path, *PLAIN, "--config-dir", "conf", "backend=slow,naive,sdpa_math", "seed=0,1",
                    env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    text=True)  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "slow").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(fork_server_of(process.pid), signal.SIGKILL)
    out, err = process.communicate(timeout=100)
    assert "Traceback" not in err, err
    found = statuses(tmp_path)
    assert len(found) == 6 and found.count("ok") >= 5, out
    if found.count("crashed"):
        assert "the fork server it came from was killed" in out


SHADOWS = ("queue", "types", "random", "numpy", "signal", "torch", "selectors", "struct")


def test_python_files_in_the_working_directory_are_not_imported(tmp_path: Path):
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"open('ran-{name}', 'w')\nraise SystemExit('shadowed')\n")
    script = Path(sys.executable).with_name("attn-lab")
    command = [script] if script.exists() else [sys.executable, "-P", "-m", "attn_lab"]
    done = subprocess.run([*command, *words_with_defaults((*PLAIN, "backend=naive,sdpa_math"))], cwd=tmp_path,
                          env=environment(tmp_path, {}), capture_output=True, text=True, timeout=100)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path) == ["ok", "ok"] and not list(tmp_path.glob("ran-*"))
    pytest.importorskip("altair", reason="extra: report")
    done = subprocess.run([*command, "report", "runs/x"], cwd=tmp_path, env=environment(tmp_path, {}),
                          capture_output=True, text=True, timeout=100)  # fmt: skip
    assert done.returncode == 0 and not list(tmp_path.glob("ran-*")), done.stderr


@pytest.mark.parametrize("closed", [">&- 2>&-", "<&- 2>&-", "<&- >&- 2>&-", ">&-"])
def test_closed_streams_cost_no_case(closed: str, tmp_path: Path):
    words = " ".join(f"'{word}'" for word in words_with_defaults((*PLAIN, "backend=naive")))
    done = subprocess.run(["sh", "-c", f"exec {sys.executable} -m attn_lab {words} {closed}"], cwd=tmp_path,
                          env=environment(tmp_path, {}), capture_output=True, timeout=100)  # fmt: skip
    assert statuses(tmp_path) == ["ok"] and done.returncode == 0, done


def test_an_output_that_cannot_be_written_costs_no_record(tmp_path: Path):
    with open("/dev/full", "w") as full:
        process = sweep(tmp_path, *PLAIN, "backend=naive,sdpa_math", stdout=full, stderr=subprocess.PIPE, text=True)
        _, err = process.communicate(timeout=100)
    assert statuses(tmp_path) == ["ok", "ok"] and process.returncode == 0
    assert err.count("\n") == 1 and "No space left" in err


@pytest.mark.parametrize("word", ["backend=glob(flsh*)", "seed=range(0)", "shape.seq_len=glob(*)"])
def test_what_matches_nothing_is_one_line(word, door):
    told = door(word)
    assert told.code == 2 and told.err.count("\n") == 1 and "matches nothing" in told.err, told.err
    assert not (told.folder / "runs").exists()


@pytest.mark.parametrize("value", ["a", "-1", "inf", "true"])
def test_a_cap_that_is_no_number_is_refused_by_status_and_sweep(value, door):
    for command in ((), ("status",)):
        told = door(*command, f"logger.jsonl.file_mb={value}")
        assert told.code == 2 and "logger.jsonl.file_mb: expected a number" in told.err, told.err


def test_a_crash_of_ours_in_a_sweep_is_a_traceback_and_no_bad_request(door, monkeypatch):
    def broken(*_: object) -> None:
        raise ValueError("zip() argument 2 is shorter than argument 1")

    monkeypatch.setattr("attn_lab.run.local.in_process.provenance_of", broken)
    with pytest.raises(ValueError, match="zip"):
        door(*PLAIN, "backend=naive")


def acquire(*uuids: str) -> None:
    locks = GpuLocks(uuids)
    assert list(locks.acquire()) == []
    locks.release()


def test_a_lock_of_a_gpu_never_follows_a_link(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    acquire("GPU-1")
    victim = tmp_path / "thesis.tex"
    for name in ("GPU-1.lock", "GPU-1.pid"):
        victim.write_text("years of work")
        (tmp_path / "attn_lab" / name).unlink(missing_ok=True)
        (tmp_path / "attn_lab" / name).symlink_to(victim)
        with suppress(BadRequest):
            acquire("GPU-1")
        assert victim.read_text() == "years of work"
        (tmp_path / "attn_lab" / name).unlink(missing_ok=True)


@pytest.mark.parametrize("spoil", ["open to all", "link", "file"])
def test_a_folder_of_locks_that_another_may_write_to_is_refused_in_a_line(spoil, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "attn_lab"
    if spoil == "open to all":
        folder.mkdir()
        folder.chmod(0o777)
    elif spoil == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.write_text("")
    with pytest.raises(BadRequest, match=r"attn_lab: expected a folder that this user alone may write to"):
        acquire("GPU-1")
    acquire()  # without a GPU there is nothing to lock


def test_a_message_that_stops_half_way_blocks_nobody():
    ours, theirs = os.pipe()
    receiver = Receiver(ours)
    send(theirs, Probing("timing"))
    os.write(theirs, b"\0\0\0\0\0\0\0\x09half")
    assert list(receiver.messages()) == [Probing("timing")]
    assert list(receiver.messages()) == [] and not receiver.ended
    os.close(theirs)
    assert list(receiver.messages()) == [] and receiver.ended
    os.close(ours)


def wait_for(receiver: Receiver) -> None:
    while not list(receiver.messages()):
        time.sleep(0.01)


PICKLE = b"cos\nsystem\n(S'touch ran'\ntR."


@pytest.mark.parametrize("body", [
    b"", b"null", b"[]", b'"timing"', PICKLE, b"{" * 10**5, b"[" * 10**6, b'{"type": "answer"}', b"\xff",
    b'{"type": "answer", "status": "fine", "reasons": [], "metrics": {}, "series": {}, "files": []}',
    b'{"type": "answer", "status": "ok", "reasons": [1], "metrics": {}, "series": {}, "files": []}',
    b'{"type": "answer", "status": "ok", "reasons": [], "metrics": {"a": [1]}, "series": {}, "files": []}',
])  # fmt: skip
def test_what_is_no_message_is_told_and_never_unpickled(body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours, theirs = os.pipe()
    receiver = Receiver(ours)
    writing = threading.Thread(target=os.write, args=(theirs, SIZE.pack(len(body)) + body))
    writing.start()
    with pytest.raises(Garbage):
        wait_for(receiver)
    writing.join()
    assert not (tmp_path / "ran").exists()
    os.close(theirs)
    os.close(ours)


def test_a_message_of_a_size_that_cannot_be_is_not_waited_for():
    ours, theirs = os.pipe()
    receiver = Receiver(ours)
    os.write(theirs, b"Traceback (most recent call last)")
    with pytest.raises(Garbage):
        list(receiver.messages())
    os.close(theirs)
    os.close(ours)


def test_a_worker_stopped_while_it_sends_is_ended_by_the_timeout(tmp_path: Path):
    (tmp_path / "stops.py").write_text("""
import os
import signal
from attn_lab.backends.naive import Naive


class Stops(Naive):
    def prepare(self, request, machine):
        from attn_lab.run.local import messages

        def half(descriptor, message):
            os.write(descriptor, messages.SIZE.pack(10**6) + b"half")
            os.kill(os.getpid(), signal.SIGSTOP)

        import attn_lab.run.local.worker_main as worker_main
        worker_main.send = half
        return super().prepare(request, machine)
""")
    (tmp_path / "conf/backend").mkdir(parents=True)
    (tmp_path / "conf/backend/stops.yaml").write_text("_target_: stops.Stops\n")
    process = sweep(tmp_path, *PLAIN, "--config-dir", "conf", "backend=stops,naive", "measure.timeout=6",
                    env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}, stdout=subprocess.DEVNULL)  # fmt: skip
    assert process.wait(90) == 1
    assert statuses(tmp_path) == ["timeout", "ok"]


def cgroup(root: Path, line: str, **files: dict[str, str]) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 99999 kB\nMemAvailable: 1000000 kB\n")
    (root / "proc/self/cgroup").write_text(line)
    for folder, values in files.items():
        place = root / "sys/fs/cgroup" / folder.replace("__", "/").strip("/")
        place.mkdir(parents=True, exist_ok=True)
        for name, value in values.items():
            (place / name).write_text(value)


def test_free_memory_is_what_the_control_group_leaves(tmp_path: Path):
    limited = {"memory.max": "100000000\n", "memory.current": "60000000\n", "memory.stat": "inactive_file 10000000\n"}
    unlimited = {"memory.max": "max\n", "memory.current": "1\n", "memory.stat": "inactive_file 0\n"}
    cgroup(tmp_path / "a", "0::/job/step\n", job=limited, job__step=unlimited)
    assert available_bytes(tmp_path / "a") == 50_000_000
    cgroup(tmp_path / "b", "0::/job\n", job=unlimited)
    assert available_bytes(tmp_path / "b") == 1_024_000_000
    old = {"memory.limit_in_bytes": "2000", "memory.usage_in_bytes": "500", "memory.stat": "total_inactive_file 0\n"}
    cgroup(tmp_path / "c", "4:cpu,memory:/docker/1\n", memory=old)
    assert available_bytes(tmp_path / "c") == 1500


def drawing(pid: int) -> list[int]:
    """The processes that draw for this one."""
    return [each for each in children(pid) if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


@pytest.mark.parametrize(("sign", "why"), [(signal.SIGKILL, "a drawing process was killed"),
                                           (signal.SIGSTOP, "no answer in 4 s")])  # fmt: skip
def test_a_drawing_process_that_is_killed_or_stopped_costs_the_report_alone(sign, why, door, monkeypatch, tmp_path):
    pytest.importorskip("altair", reason="extra: report")
    monkeypatch.setattr("attn_lab.report.render.figure_files.PATIENCE", 4.0)
    assert door(*PLAIN, "backend=naive").statuses == ["ok"]
    over = threading.Event()

    def send_sign() -> None:
        while not over.wait(0.02):
            for each in drawing(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(each, sign)

    sender = threading.Thread(target=send_sign)
    sender.start()
    try:
        asked = door("report", "runs/x")
        swept = door(*PLAIN, "backend=naive,sdpa_math", "report.enabled=true")
    finally:
        over.set()
        sender.join()
    assert asked.code == 2 and asked.err.count("\n") == 1 and why in asked.err, asked.err
    assert swept.code == 0 and swept.statuses == ["ok", "ok"]
    assert "no report was made; later: attn-lab report runs/x" in swept.out and why in swept.out
    assert sorted(path.name for path in (tmp_path / "runs/x").iterdir()) == [".lock", "records.jsonl"]
    assert not drawing(os.getpid())
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert door("report", "runs/x").code == 0
