"""What the harness itself costs: sweeps of tiny CPU cases, and the seconds a case that no probe used.

python scripts/harness_cost.py [--cases 20] [--repeats 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    costs = []
    for _ in range(asked.repeats):
        least, most = _beyond_probes(2), _beyond_probes(asked.cases)
        costs.append((most - least) / (asked.cases - 2))  # start-up and summary are in both
        print(f"2 cases {least:.2f} s, {asked.cases} cases {most:.2f} s beyond probes: {costs[-1]:.3f} s a case")
    print(f"median {statistics.median(costs):.3f} s a case ({min(costs):.3f} to {max(costs):.3f})")


def _beyond_probes(cases: int) -> float:
    """Seconds of a whole command that no probe of its cases used."""
    lengths = ",".join(str(16 + 4 * index) for index in range(cases // 2))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "attn_lab", "-m", "device=cpu", "shape=tiny", "measure=quick",
                   "backend=naive,sdpa_flash", f"shape.seq_len={lengths}"]  # fmt: skip
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        wall = time.perf_counter() - start
        lines = [json.loads(line) for line in Path(folder, "runs/adhoc/records.jsonl").read_text().splitlines()]
    assert len(lines) == cases // 2 * 2, f"expected {cases} records, got {len(lines)}"
    return wall - sum(line["metrics"]["harness/probes"]["value"] for line in lines)


if __name__ == "__main__":
    main()
