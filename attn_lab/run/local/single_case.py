"""python -m attn_lab.run.local.single_case IN OUT: one packed case in a process of its own, for Nsight to profile."""

import json
import sys
from pathlib import Path

from attn_lab.config.build import unpacked
from attn_lab.core.machine import detect
from attn_lab.measure.run_case import run_case
from attn_lab.run.provenance import provenance_of


def run_single_case(given: Path, taken: Path) -> None:
    """Reads a packed case, writes its record's line."""
    case = unpacked(json.loads(given.read_text(encoding="utf-8")))
    machine = detect(case.config["device"])
    record = run_case(case, machine, provenance_of(case, machine, "alone", "attn-lab nsight"))
    taken.write_text(record.line(), encoding="utf-8")


if __name__ == "__main__":
    run_single_case(*map(Path, sys.argv[1:]))
