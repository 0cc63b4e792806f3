"""What W&B's processes, servers, disks and folders of strangers may do: a sweep goes on, and one line says why."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import environment as clean
from conftest import words_with_defaults
from wandb_loopback import KEY, Loopback
from wandb_sweep import HASTY, environment, offline, record, sweep

from attn_lab.loggers.wandb.answer import misbehaviour, not_an_address
from attn_lab.loggers.wandb.log_file import entries

pytest.importorskip("wandb", minversion="0.31")

KILLS = int(os.environ.get("ATTN_LAB_KILLS", "2"))  # moments at which W&B's service is killed; 20 takes a minute
PLAIN = ("probe=[accuracy]", "passes=[forward]", "shape.seq_len=16", "name=x", "logger=[jsonl,wandb]",
         "logger.wandb.mode=offline", "hydra/launcher=basic")  # fmt: skip


def whole(folder: Path) -> list[str]:
    """The names of the runs, each of which has its end."""
    runs = offline(folder)
    assert all("exit" in run for run in runs)
    return [run["name"] for run in runs]


def test_what_w_and_b_refuses_of_one_run_costs_that_run_alone(tmp_path: Path) -> None:
    """It takes no artifact of such a name; the run, its artifact and the words of the end are real."""
    odd = record(7, "naive", "ok", [])
    odd = type(odd)(case={**odd.case, "id": "a:b"}, status="ok", provenance=odd.provenance,
                    artifacts=[{"kind": "trace", "path": "profile/t.json", "size": 2}])  # fmt: skip
    file = tmp_path / "work/runs/x/profile/t.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with sweep(tmp_path) as run:
        run("open", {"folder": "runs/x", "mode": "offline"})
        for each in (0, odd, 1, odd, 2):
            run("write", each)
        first, second = run("close").splitlines()
        assert run.end()[1] == []
    assert first == "W&B: offline; send the runs by: attn-lab wandb-sync runs/x"
    assert second.startswith("W&B: 2 of 6 runs not logged (") and "rtifact" in second
    assert second.endswith("); to rebuild them: attn-lab wandb runs/x")
    assert len(whole(tmp_path / "work/runs/x")) == 4


def test_a_service_that_is_killed_at_any_moment_costs_a_run_at_most(tmp_path: Path) -> None:
    moment = random.Random(3)
    with sweep(tmp_path) as run:
        for number in range(KILLS):
            folder = tmp_path / f"work/runs/{number}"
            run("open", {"folder": f"runs/{number}", "mode": "offline"})
            killer = threading.Timer(moment.uniform(0, 0.25), os.kill, (run("service"), signal.SIGKILL))
            killer.start()
            for _ in range(2):
                for each in range(5):
                    run("write", each)
                killer.join()
            where = run("close")
            lost = int(where.partition("W&B: ")[2].partition("\nW&B: ")[2].partition(" of")[0] or 0)
            assert lost <= 1 and ("ended with signal 9 (SIGKILL)" in where) == bool(lost), where
            assert len(whole(folder)) >= 5
        assert run.end()[1] == []


def test_a_service_that_is_stopped_is_ended_and_costs_a_run(tmp_path: Path) -> None:
    services = []
    with sweep(tmp_path) as run:
        run("open", {"folder": "runs/x", "mode": "offline"})
        run("write", 0)
        run("session", {"STEP": 2})
        for number in (1, 2, 3, "close"):
            if number in (1, "close"):
                services.append(run("service"))
                os.kill(services[-1], signal.SIGSTOP)
            where = run("close") if number == "close" else run("write", number)
        assert run.end()[1] == []
    assert "W&B: 2 of 5 runs not logged (W&B's service did not answer within 2 s); to rebuild them: " in where
    assert len(whole(tmp_path / "work/runs/x")) == 3
    assert not any(Path(f"/proc/{service}").exists() for service in services)


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGSTOP])
def test_what_sends_may_be_killed_or_stopped_and_the_rest_is_sent_later(signal_: int, tmp_path: Path) -> None:
    with closing(Loopback()) as server, sweep(tmp_path, **HASTY, **server.environment()) as run:
        server.delay = 0.3
        run("tune", {"EVERY": 0.1, "PATIENCE": 4})
        run("open", {"folder": "runs/x"})
        run("write", 0)
        until = time.monotonic() + 20
        while not (child := run("service", "python")) and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(child, signal_)
        run("write", 1)
        server.delay = 0.0
        where = run("close")
        assert run.end()[1] == []
        if signal_ == signal.SIGKILL:  # it was tried once more
            assert where.startswith(f"W&B: {server.url}"), where
        else:
            assert where.startswith("W&B: 3 of 3 runs not sent ("), where
        done = subprocess.run([sys.executable, "-m", "attn_lab", "wandb-sync", "runs/x"], cwd=tmp_path / "work",
                              env=environment(tmp_path, **server.environment()), capture_output=True)  # fmt: skip
        assert done.returncode == 0 and len(server.whole) == 3


def test_a_sweep_whose_service_is_killed_goes_on(tmp_path: Path) -> None:
    words = [*words_with_defaults((*PLAIN, "seed=range(6)"))]
    process = subprocess.Popen([sys.executable, "-m", "attn_lab", *words], cwd=tmp_path, env=clean(tmp_path, {}),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    file, until = tmp_path / "runs/x/records.jsonl", time.monotonic() + 60
    while not file.exists() or file.read_bytes().count(b"\n") < 1:
        assert time.monotonic() < until
        time.sleep(0.01)
    subprocess.run(["pkill", "-9", "-P", str(process.pid), "wandb-core"], check=True)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, ""), err
    assert [json.loads(line)["status"] for line in file.read_text().splitlines()] == ["ok"] * 6
    assert out.count("SIGKILL") <= 1 and len(whole(tmp_path / "runs/x")) >= 6


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path / "runs")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        words = [*words_with_defaults((*PLAIN, "seed=range(10)"))]
        done = subprocess.run([sys.executable, "-m", "attn_lab", *words], cwd=tmp_path, env=clean(tmp_path, {}),
                              capture_output=True, text=True, timeout=100)  # fmt: skip
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left" in done.stderr, done.stderr
        kept = (tmp_path / "runs/x/records.jsonl").read_bytes().splitlines()
        assert all(json.loads(line)["status"] == "ok" for line in kept) and len(kept) >= 1
        (lost,) = (line for line in done.stdout.splitlines() if " runs not logged (" in line)
        assert lost.startswith("W&B: ") and lost.endswith("attn-lab wandb runs/x")
    finally:
        subprocess.run(["umount", str(tmp_path / "runs")], check=True)


@contextmanager
def misbehaving(how: str) -> Iterator[str]:
    """The address of a server that answers every request so."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            try:
                if how.startswith("redirect"):
                    self.send_response(302)
                    self.send_header("Location", self.path if how == "redirect to itself" else "http://127.0.0.1:9/x")
                    self.end_headers()
                    return
                self.send_response(200)
                self.end_headers()
                while how != "html" and not over.is_set():
                    self.wfile.write(b" " * 65536 if how == "endless" else b" ")
                    over.wait(0 if how == "endless" else 0.1)
                self.wfile.write(b"<!doctype html><title>\x1b[31mlogin</title>")
            except OSError:
                return

        do_GET = do_POST

    over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        over.set()
        server.shutdown()


HOSTILE = {
    "redirect to itself": "redirects to '/graphql'",
    "redirect away": "redirects to 'http://127.0.0.1:9/x'",
    "endless": "an answer without end from ",
    "html": "that is not W&B's",
    "drips": "no whole answer from ",
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_server_that_never_comes_to_an_end_is_found_out_in_time(how: str) -> None:
    with misbehaving(how) as url:
        assert HOSTILE[how] in misbehaviour(url, 1.0)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with sweep(tmp_path_factory.mktemp("logged")) as run:
        run("open", {"folder": "runs/x", "mode": "offline"})
        for number in range(5):
            run("write", number)
        run("close")
        return run.place / "work/runs/x"


def sync(place: Path, url: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "attn_lab", "wandb-sync", "x"], cwd=place, capture_output=True, text=True, timeout=60,
        env=environment(place, WANDB_API_KEY=KEY, WANDB_BASE_URL=url, **HASTY),
    )  # fmt: skip


def test_such_a_server_is_one_line_to_the_command_that_sends(logged: Path, tmp_path: Path) -> None:
    how = "endless"
    shutil.copytree(logged, tmp_path / "x")
    with misbehaving(how) as url:
        done = sync(tmp_path, url)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert HOSTILE[how] in done.stderr


ADDRESSES = (
    "not a url",
    "http://",
    "http://[::1",
    "http://h:99999",
    "ftp://h",
    "//h",
    "http://h h",
    "http://\x1b[1m",
    " ",
)


@pytest.mark.parametrize("url", ADDRESSES)
def test_what_is_no_address_is_named(url: str) -> None:
    assert "which is no address such as https://" in not_an_address(url)
    assert not_an_address(url).isprintable()


def test_no_address_is_one_line_to_a_sweep_and_to_the_command_that_sends(logged: Path, tmp_path: Path) -> None:
    shutil.copytree(logged, tmp_path / "x")
    done = sync(tmp_path, ADDRESSES[0])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "got WANDB_BASE_URL='not a url', which is no address" in done.stderr
    with sweep(tmp_path, WANDB_BASE_URL=ADDRESSES[0]) as run:
        run("open", {"folder": "runs/x"})
        run("write", 0)
        assert run("close").startswith("W&B: offline; ")
        (told,) = run.end()[1]
        assert told.startswith("W&B offline: WANDB_BASE_URL='not a url', which is no address")
    assert len(whole(tmp_path / "work/runs/x")) == 2


def insert(log: Path, stolen: Any) -> None:
    """One more entry before the run's end, as W&B itself would have written it."""
    found = list(entries(log))
    end = next(place for place, entry in enumerate(found) if entry.HasField("exit"))
    data = log.read_bytes()[:7]
    for entry in [*found[:end], stolen, *found[end:]]:
        payload = b"\1" + entry.SerializeToString()  # a part that is a whole entry
        data += zlib.crc32(payload).to_bytes(4, "little") + (len(payload) - 1).to_bytes(2, "little") + payload
    assert len(data) < 32768  # else parts were to be split
    log.write_bytes(data)


def test_of_a_stranger_s_folder_nothing_is_sent_from_outside(logged: Path, tmp_path: Path) -> None:
    from wandb.proto import wandb_internal_pb2 as pb

    shutil.copytree(logged, tmp_path / "x")
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    good, *bad = sorted((tmp_path / "x/wandb").glob("offline-run-*"))
    (good / "logs").mkdir(exist_ok=True)
    (good / "logs/debug-core.log").unlink(missing_ok=True)
    (good / "logs/debug-core.log").symlink_to(tmp_path / "where the folder was before it was moved")
    first, second, third, fourth, fifth = ((run, *run.glob("*.wandb")) for run in bad)

    def artifact(path: str) -> Any:
        entry = pb.Record()
        entry.artifact.name, entry.artifact.type, entry.artifact.finalize = "stolen", "profile", True
        entry.artifact.manifest.version = 1
        entry.artifact.manifest.contents.add(path="s.txt", digest="x", size=10, local_path=path)
        return entry

    insert(first[1], artifact("../secret.txt"))
    insert(second[1], artifact(str(secret)))
    files = pb.Record()
    files.files.files.add(path="../../../../secret.txt")
    insert(third[1], files)
    (fourth[0] / "files").mkdir(exist_ok=True)
    (fourth[0] / "files/output.log").symlink_to(secret)
    insert(fifth[1], artifact(str(secret)))
    data = bytearray(fifth[1].read_bytes())
    data[60] ^= 1  # damaged, and then more of it: another reader may go on where ours cannot
    fifth[1].write_bytes(data)
    loop = tmp_path / "x/wandb/offline-run-20260101_000000-looped"
    loop.mkdir()
    (loop / "run-looped.wandb").symlink_to("run-looped.wandb")
    with closing(Loopback()) as server:
        done = sync(tmp_path, server.url)
        sent = json.dumps([*server.runs.values(), server.artifacts], default=repr)
        assert (done.returncode, done.stderr) == (1, "")
        refused = [line for line in done.stdout.splitlines() if "  failed  refused: " in line]
        assert len(refused) == 6 and {*server.runs} == {good.name.rpartition("-")[2]}
        assert "the secret" not in sent and not server.artifacts
        assert sum("secret.txt', which is not under the folder" in line for line in refused) == 3
        assert done.stdout.splitlines()[-1] == "1 runs sent, 6 not sent; the same command tries them again"


def test_a_folder_that_leads_elsewhere_is_not_sent(logged: Path, tmp_path: Path) -> None:
    shutil.copytree(logged, tmp_path / "theirs")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/wandb").symlink_to(tmp_path / "theirs/wandb")
    with closing(Loopback()) as server:
        done = sync(tmp_path, server.url)
        assert done.returncode == 1 and not server.runs and "refused: it is not under the folder" in done.stdout
