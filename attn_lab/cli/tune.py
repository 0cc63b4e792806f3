"""attn-lab tune RUNS… [-o table.json]: from verified records, the file that backend=auto follows."""

import argparse
from pathlib import Path

from attn_lab.report.dispatch_table import tune


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="run folders (or records.jsonl files) of one GPU")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("table.json"), metavar="FILE", help="where to; table.json"
    )


def run(given: argparse.Namespace) -> int:
    return tune(given.runs, given.out)
