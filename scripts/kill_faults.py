"""Kill one process of a sweep at a random moment, many times: what is lost, and what the same command makes of it.

python scripts/kill_faults.py [--each 20] [--seed 0] [KIND…]
KIND: command, worker, fork_server, renderer, remote_worker; all, if none is named.

Each time a sweep of 8 tiny cases runs in a folder of its own; one of its processes is ended by SIGKILL.  Expected: no
traceback of attn_lab's, every line of records.jsonl whole, at most the case in flight lost, and after the same command
once more every case ok, each line of before where it was.  Prints a line a kind; exits 1 where anything else was found.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CASES = 8
COMMON = ("backend=naive", "probe=[accuracy]", "passes=[forward]", "shape.seq_len=16", f"seed=range({CASES})", "name=x",
          "logger=[jsonl]", "measure=quick", "device=cpu")  # fmt: skip
QUIET = "report.enabled=false"
SWEEPS = {
    "command": (*COMMON, QUIET),
    "worker": (*COMMON, QUIET),
    "fork_server": (*COMMON, QUIET),
    "renderer": COMMON,
    "remote_worker": (*COMMON, QUIET, "hydra/launcher=slurm", "hydra.launcher.cluster=local", "hydra.launcher.count=2"),
}
PATIENCE = 120  # seconds a sweep may take
OUTPUTS: dict[int, Path] = {}  # what a process prints, by its id


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="all of them, if none is named")
    parser.add_argument("--each", type=int, default=20, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if unknown := [kind for kind in given.kinds if kind not in SWEEPS]:
        parser.error(f"expected some of {', '.join(SWEEPS)}; got {unknown[0]}")
    wrong = 0
    for kind in given.kinds or SWEEPS:
        lost, troubles = kills(kind, given.each, random.Random(f"{kind}{given.seed}"))
        print(f"{kind}: {given.each - len(troubles)} of {given.each} as expected; cases lost: {lost}", flush=True)
        for each in troubles:
            print(f"  {each}", flush=True)
        wrong += len(troubles)
    return int(wrong > 0)


def kills(kind: str, count: int, moment: random.Random) -> tuple[list[int], list[str]]:
    """How many cases each kill lost, and what was not as expected."""
    lost, troubles = [], []
    with tempfile.TemporaryDirectory(prefix="attn-lab-kills-") as place:
        begin = time.monotonic()
        code, output = finish(start(Path(place), SWEEPS[kind]))
        took = time.monotonic() - begin
        whole = answers(Path(place))
        assert code == 0 and list(whole.values()) == ["ok"] * CASES, output
    while len(lost) < count:
        with tempfile.TemporaryDirectory(prefix="attn-lab-kills-") as place:
            folder, at = Path(place), moment.uniform(0, took)
            process = start(folder, SWEEPS[kind])
            if not kill(kind, folder, process, time.monotonic() + at):
                finish(process)  # it was over before there was anything to kill
                continue
            code, output = finish(process)
            lost.append(CASES - list(answers(folder).values()).count("ok"))
            trouble = after(kind, folder, code, output, whole)
            print(f"{kind} {len(lost)}/{count}: {lost[-1]} lost {trouble}", file=sys.stderr, flush=True)
            if trouble:
                troubles.append(f"killed {at:.2f} s of {took:.2f} s after its start: {trouble}")
    return lost, troubles


def after(kind: str, folder: Path, code: int, output: str, whole: dict[str, str]) -> str:
    """What is not as expected once the sweep has ended, now and after the same command; empty where nothing is."""
    deadline = time.monotonic() + 20
    while left := list(processes(folder, "")):
        if time.monotonic() > deadline:
            return f"{len(left)} processes are left"
        time.sleep(0.05)
    first = lines(folder)
    found = answers(folder)
    most = 0 if kind == "renderer" else CASES if kind == "command" else 1
    failed = [status for status in found.values() if status != "ok"]
    if "attn_lab/" in output.partition("Traceback")[2]:
        return f"a traceback: {output[-300:]}"
    if kind == "command" and failed:
        return f"of a killed command no case fails; got {failed}"
    if CASES - len(found) + len(failed) > most:
        return f"{len(failed)} failed and {CASES - len(found)} missing, where {most} may be: {output[-300:]}"
    code, output = finish(start(folder, SWEEPS[kind]))
    if code != 0 or "Traceback (most" in output:
        return f"the same command ended with {code}: {output[-300:]}"
    if lines(folder)[: len(first)] != first:
        return "lines of before were changed"
    if answers(folder) != whole:
        return f"the cases differ from those of a sweep that was not disturbed: {answers(folder)}"
    usual = {"records.jsonl", "records.jsonl.torn", ".lock", "report"}
    strange = {path.name for path in (folder / "runs/x").iterdir()} - usual
    return f"left in the run folder: {sorted(strange)}" if strange else ""


def start(folder: Path, words: tuple[str, ...]) -> "subprocess.Popen[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "HYDRA", "ATTN_LAB"))}
    env = {**kept, "PYTHONPATH": str(ROOT), "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    with (folder / "output").open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "attn_lab", *words], cwd=folder, env=env, stdout=output,
                                   stderr=subprocess.STDOUT, text=True)  # fmt: skip
    OUTPUTS[process.pid] = folder / "output"
    return process


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Its exit code and all it printed."""
    code = process.wait(PATIENCE)
    return code, OUTPUTS.pop(process.pid).read_text(errors="replace")


def kill(kind: str, folder: Path, process: "subprocess.Popen[str]", at: float) -> bool:
    """Kill one process of the kind at that time, or as soon after it as there is one; False if there was none."""
    while process.poll() is None:
        if time.monotonic() >= at and (found := list(processes(folder, kind))):
            try:
                os.kill(process.pid if kind == "command" else random.choice(found), signal.SIGKILL)
            except ProcessLookupError:
                continue
            return True
        time.sleep(0.005)
    return False


OF: dict[str, Callable[[str, int], bool]] = {
    "": lambda words, parent: True,
    "command": lambda words, parent: "-m attn_lab " in words,
    "fork_server": lambda words, parent: "forkserver" in words and "forkserver" not in cmdline(parent),
    "worker": lambda words, parent: "forkserver" in words and "forkserver" in cmdline(parent),
    "renderer": lambda words, parent: "spawn_main" in words,
    "remote_worker": lambda words, parent: "remote_worker serve" in words and "forkserver" not in words,
}


def processes(folder: Path, kind: str) -> Iterator[int]:
    """Processes of a kind whose working directory is `folder`."""
    for each in Path("/proc").glob("[0-9]*"):
        try:
            stat = (each / "stat").read_text().rpartition(") ")[2]
            if (each / "cwd").readlink() != folder or stat[0] == "Z":
                continue
        except OSError:
            continue
        if OF[kind](cmdline(int(each.name)), int(stat.split()[1])):
            yield int(each.name)


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def lines(folder: Path) -> list[bytes]:
    """The whole lines of records.jsonl."""
    file = folder / "runs/x/records.jsonl"
    content = file.read_bytes() if file.exists() else b""
    return [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]


def answers(folder: Path) -> dict[str, str]:
    """The last status of each case, by id."""
    records = [json.loads(line) for line in lines(folder)]
    return {record["case"]["id"]: record["status"] for record in records}


if __name__ == "__main__":
    sys.exit(main())
