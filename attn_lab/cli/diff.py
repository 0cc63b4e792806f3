"""attn-lab diff A B: what changed from one run to another, with an exit code for CI."""

import argparse

from attn_lab.cli.parser import takes_json
from attn_lab.core.suggest import did_you_mean
from attn_lab.report.diff.command import FAIL_ON, diff


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs=2, metavar="RUN", help="a run folder or a records file: A, then B")
    parser.add_argument("--fail-on", action="append", default=[], metavar="KIND", type=_kinds,
                        help=f"exit 1 if there is any: {', '.join(FAIL_ON)}; slower also for what broke")  # fmt: skip
    parser.add_argument("--markdown", metavar="FILE", help="write there instead of to the terminal")
    parser.add_argument("--metric", action="append", default=[], metavar="NAME", help="only these (forward/time)")
    takes_json(parser)


def run(given: argparse.Namespace) -> int:
    fail_on = {kind for kinds in given.fail_on for kind in kinds}
    return diff(given.runs, fail_on=fail_on, metric=given.metric, markdown_file=given.markdown, as_json=given.json)


def _kinds(words: str) -> list[str]:
    kinds = words.split(",")
    for kind in kinds:
        if kind not in FAIL_ON:
            raise argparse.ArgumentTypeError(
                f"expected any of {', '.join(FAIL_ON)}; got {kind!r}{did_you_mean(kind, FAIL_ON)}"
            )
    return kinds
