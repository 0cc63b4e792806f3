"""Many tiny cases in one sweep, then as many more on top: what the command holds on to, and what it leaves behind.

python scripts/soak.py [--cases 1000]

The command's memory and open descriptors are read four times a second from /proc.  Growth is that from the median of
the second tenth of the cases to that of the last tenth.  A zombie is a dead child that has not been waited for at two
readings in a row; a stray file is one outside the run folder and the cache.  Prints a line a sweep; exits 1 where
memory grows by more than 30 kB a case, descriptors grow, a zombie or a stray file is found, or a case is missing.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MOST = 30.0  # kB a case
PAGE = os.sysconf("SC_PAGE_SIZE")


class Reading(NamedTuple):
    cases: int
    memory: int  # bytes
    descriptors: int
    zombies: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    cases = parser.parse_args().cases
    with tempfile.TemporaryDirectory(prefix="attn-lab-soak-") as place:
        folder = Path(place)
        faults = [fault for sweep, total in ((1, cases), (2, 2 * cases)) for fault in soak(folder, sweep, cases, total)]
    for fault in faults:
        print(f"! {fault}")
    return int(bool(faults))


def soak(folder: Path, sweep: int, cases: int, total: int) -> list[str]:
    """Run cases 0 to `total` of one sweep, of which all but the last `cases` are done; what is not as it must be."""
    home, temporary = folder / "home", folder / "tmp"
    for each in (home, temporary):
        each.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "attn_lab", "backend=naive", "probe=[accuracy]", "passes=[forward]", "name=x",
               "shape.seq_len=16", f"seed=range({total})", "logger=[jsonl]", "measure=quick", "device=cpu",
               "report.enabled=false"]  # fmt: skip
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT),
                   "XDG_CACHE_HOME": str(home / ".cache"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    records = folder / "runs/x/records.jsonl"
    begin, readings = time.monotonic(), list[Reading]()
    with (folder / f"output{sweep}").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            if reading := read(process.pid, records):
                readings.append(reading)
            time.sleep(0.25)
    took, lines = time.monotonic() - begin, count(records)
    first = total - cases
    middle = lambda name, low, high: statistics.median(  # noqa: E731
        [getattr(each, name) for each in readings if first + low * cases <= each.cases <= first + high * cases] or [0]
    )
    growth = (middle("memory", 0.9, 1) - middle("memory", 0.1, 0.2)) / 0.8 / cases / 1e3
    descriptors = middle("descriptors", 0.9, 1) - middle("descriptors", 0.1, 0.2)
    zombies = any(one.zombies and other.zombies for one, other in pairwise(readings))
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    stray = [str(path) for path in files if not _expected(path)]
    print(f"sweep {sweep}: {lines} of {total} cases in {took:.0f} s; memory {growth:+.1f} kB a case, at most "
          f"{max(each.memory for each in readings) / 1e6:.0f} MB; descriptors {descriptors:+.0f}; "
          f"zombies: {'some' if zombies else 'none'}; stray files: {len(stray)}", flush=True)  # fmt: skip
    found = {f"exit code {process.returncode}": process.returncode != 0, f"{lines} of {total} cases": lines != total,
             f"memory grows by {growth:.1f} kB a case": growth > MOST, f"descriptors grow by {descriptors}":
             descriptors > 0, "zombies": zombies, f"stray files: {', '.join(stray[:5])}": bool(stray)}  # fmt: skip
    return [f"sweep {sweep}: {fault}" for fault, is_one in found.items() if is_one]


def read(pid: int, records: Path) -> Reading | None:
    """The command now; None where it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        states = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in children]
    except (OSError, IndexError):
        return None
    return Reading(count(records), pages * PAGE, descriptors, states.count("Z"))


def count(records: Path) -> int:
    return records.read_bytes().count(b"\n") if records.exists() else 0


def _expected(path: Path) -> bool:
    """Of the run folder, of the cache, or an output that this script makes."""
    where = path.parts
    return where[:2] == ("runs", "x") or where[:2] == ("home", ".cache") or where[0].startswith("output")


if __name__ == "__main__":
    sys.exit(main())
