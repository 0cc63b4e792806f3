"""What the harness itself costs: a sweep of tiny CPU cases under each launcher, in seconds and in memory, as Markdown.

python scripts/harness_cost.py [--cases 200] [--launchers workers,basic,hydra:basic,hydra:joblib,hydra:ray]

Seconds until the first case began (when its record came, less what it took), seconds a case that no probe used (all but
starting and ending), the whole command, and the resident memory of the command and of the largest process it started,
the least there was early (a tenth to a third of the records there) and late (the last quarter).  hydra:NAME is a plain
Hydra application with the launcher that Hydra or its plugin knows by that name (harness_elsewhere.py), for comparison;
one that is not there says so.
"""

import argparse
import compileall
import json
import os
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
    for part in ("attn_lab", "hydra_plugins"):  # as an installed one is; the environment may keep Python from it
        compileall.compile_dir(Path(__file__).resolve().parents[1] / part, quiet=1)
    print(
        "| launcher | first case begins | harness a case | whole | memory of the command | of what it started | load |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for launcher in asked.launchers.split(","):
        print(f"| `{launcher}` | {_measured(launcher, asked.cases)} | {os.getloadavg()[0]:.1f} |", flush=True)


def _measured(launcher: str, cases: int) -> str:
    # Short and long by turns: what grows then is what is kept, not what is at hand.
    lengths = ",".join(str(16 + 4 * (index * 37 % (cases // 2))) for index in range(cases // 2))
    words = ["device=cpu", "shape=tiny", "measure=quick", "logger=[jsonl]", "aa_repeat=false", "report.enabled=false",
             "backend=naive,sdpa_flash", f"shape.seq_len={lengths}"]  # fmt: skip
    program = ["-m", "attn_lab"]
    if launcher.startswith("hydra:"):
        launcher = launcher.removeprefix("hydra:")
        program = [str(Path(__file__).with_name("harness_elsewhere.py")), "-m", "hydra/sweeper=basic"]
    if launcher == "ray" and "hydra/sweeper=basic" in program:  # our own conf/hydra/launcher/ray.yaml goes by that name
        launcher = "basic"
        words += ["hydra.launcher._target_=hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
                  "+hydra.launcher.ray={init:{address:local,num_cpus:1},remote:{}}"]  # fmt: skip
    words += ["hydra.launcher.n_jobs=1"] * (launcher == "joblib")  # one case at a time, as everywhere here
    with tempfile.TemporaryDirectory() as folder:
        file, err = Path(folder, "runs/adhoc/records.jsonl"), Path(folder, "err")
        start = time.time()
        with err.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, *program, *words, f"hydra/launcher={launcher}"],
                cwd=folder, stdout=subprocess.DEVNULL, stderr=stream,
            )  # fmt: skip
        early, late = list[tuple[float, float]](), list[tuple[float, float]]()
        first = 0.0
        while process.poll() is None:
            there = file.read_bytes().count(b"\n") if file.exists() else 0
            first = first or (time.time() if there else 0.0)
            for samples, begin, end in ((early, 0.1, 0.3), (late, 0.75, 0.97)):
                if begin * cases <= there <= end * cases:
                    samples.append((_resident(process.pid), _largest_other(process.pid)))
            time.sleep(0.05)
        whole = time.time() - start
        if process.returncode:
            return f"exit code {process.returncode}: {' '.join(err.read_text().split())[-200:]} | | | |"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines.sort(key=lambda line: line["provenance"]["started"])
    begun = [datetime.fromisoformat(line["provenance"]["started"]).timestamp() for line in lines]
    probing = sum(line["metrics"]["case/probe_seconds"]["value"] for line in lines[:-1])
    cost = (begun[-1] - begun[0] - probing) / (len(lines) - 1)
    least = [[min(samples) for samples in zip(*part, strict=True)] for part in (early, late)]
    begins = first - lines[0]["metrics"]["case/seconds"]["value"] - start
    said = [f"{begins:.1f} s", f"{cost:.3f} s", f"{whole:.1f} s"]
    return " | ".join([*said, *(f"{one:.0f} > {other:.0f} MB" for one, other in zip(*least, strict=True))])


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
