"""attn-lab nsight CASE…: a case under Nsight Compute or Systems; counters go into its record."""

import argparse
from pathlib import Path

from attn_lab.run.nsight import TOOLS, nsight


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cases", nargs="+", metavar="CASE",
                        help="ids of cases that ran here, or their beginnings; or overrides, as backend=flash2, of one "
                             "that is run first")  # fmt: skip
    parser.add_argument("--in", dest="runs", action="append", default=[], type=Path, metavar="RUN",
                        help="a run folder to look in; else those under runs/")  # fmt: skip
    parser.add_argument("--tool", choices=TOOLS, default="ncu", help="ncu (default): counters; nsys: a timeline")
    parser.add_argument("--keep-mb", type=float, default=256, metavar="MB", help="the largest report that is kept")


def run(given: argparse.Namespace) -> int:
    return nsight(given.cases, given.runs, given.tool, given.keep_mb)
