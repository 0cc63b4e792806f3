"""What the harness itself costs: a sweep of tiny CPU cases under each launcher, in seconds and in memory.

python scripts/harness_cost.py [--cases 200] [--launchers workers,basic]

Prints a table: seconds until the first case began, seconds a case that no probe used (all but starting and ending),
processor seconds of the whole command a case, and the resident memory of the command and of its worker, early (when a
tenth of the records are there) and at the end.  A launcher that is not installed says so.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--launchers", default="workers,basic")
    asked = parser.parse_args()
    print("launcher  first case s  harness s/case  cpu s/case  command MB early > end  worker MB early > end")
    for launcher in asked.launchers.split(","):
        print(f"{launcher:8}  {_measured(launcher, asked.cases)}", flush=True)


def _measured(launcher: str, cases: int) -> str:
    lengths = ",".join(str(16 + 4 * index) for index in range(cases // 2))
    with tempfile.TemporaryDirectory() as folder:
        file, err = Path(folder, "runs/adhoc/records.jsonl"), Path(folder, "err")
        command = [sys.executable, "-m", "attn_lab", "device=cpu", "shape=tiny", "measure=quick", "logger=[jsonl]",
                   "again=false", "report.at_end=false", "backend=naive,sdpa_flash", f"shape.seq_len={lengths}",
                   f"hydra/launcher={launcher}"]  # fmt: skip
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
        with err.open("wb") as stream:
            process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=stream)
        memory: list[tuple[float, float]] = []
        while process.poll() is None:
            if file.exists() and file.read_bytes().count(b"\n") >= cases // 10:
                memory.append((_resident(process.pid), _largest_other(process.pid)))
            time.sleep(0.2)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            return f"exit code {process.returncode}: {err.read_text().strip()[-300:]}"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
    begun = [datetime.fromisoformat(line["provenance"]["started"]).timestamp() for line in lines]
    probing = sum(line["metrics"]["harness/probes"]["value"] for line in lines[:-1])
    cost = (begun[-1] - begun[0] - probing) / (len(lines) - 1)
    cpu = (spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime) / len(lines)
    (first, worker), (last, worker_last) = memory[0], memory[max(len(memory) - 3, 0)]
    return (f"{begun[0] - start:12.2f}  {cost:14.3f}  {cpu:10.3f}  {first:10.0f} > {last:<10.0f}  "
            f"{worker:9.0f} > {worker_last:.0f}")  # fmt: skip


def _resident(pid: int) -> float:
    """MB; 0 for a process that is gone."""
    try:
        with open(f"/proc/{pid}/status") as lines:
            return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)
    except OSError:
        return 0.0


def _largest_other(pid: int) -> float:
    """MB of the largest of all that descends from a process: its worker, if it has one."""
    parents = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, grown = {pid}, True
    while grown:
        grown = bool(new := {child for child, parent in parents.items() if parent in found} - found)
        found |= new
    return max((_resident(each) for each in found - {pid}), default=0.0)


if __name__ == "__main__":
    main()
