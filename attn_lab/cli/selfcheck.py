"""attn-lab selfcheck: injects known faults on the ordinary path and reports which were detected."""

import argparse
import re

from attn_lab.cli.parser import key_values
from attn_lab.core.errors import BadRequest
from attn_lab.selfcheck.command import selfcheck


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="device=auto|cuda|cpu; seconds=N (25)")


def run(given: argparse.Namespace) -> int:
    values = key_values("selfcheck", given.settings, {"device": "auto", "seconds": "25"})
    if not re.fullmatch(r"\d{1,9}(\.\d+)?", values["seconds"]):
        raise BadRequest(f"selfcheck: seconds: expected a number of at least 0; got {values['seconds']!r}")
    return selfcheck(values["device"], float(values["seconds"]))
