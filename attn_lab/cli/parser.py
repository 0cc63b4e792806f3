"""The one parser: its commands, their help, and errors as one line."""

import argparse
import importlib
from collections.abc import Sequence
from typing import NoReturn

from attn_lab.core.errors import BadRequest
from attn_lab.core.suggest import did_you_mean

COMMANDS = {  # name → its line in --help; `attn_lab.cli.NAME` implements it
    "status": "of each case of a sweep: done, stale or to do, and why; runs nothing",
    "ls": "the runs under runs/, or the cases of one run with their ids",
    "show": "one case: metrics, verdicts, kernels, files, and the command that repeats it",
    "explain": "which backend auto selects, why, and what was unsupported (on=h100 for another GPU)",
    "report": "one offline page of one or more runs; every sweep ends with its own",
    "diff": "two runs case by case, regressions first, as Markdown or JSON",
    "tune": "from verified records, the file that backend=auto follows",
    "doctor": "which backends run on this machine, and how to install the rest",
    "certify": "verifies every kind of request that backends declare on this machine",
    "selfcheck": "injects known faults and reports which were detected here",
    "nsight": "one case under Nsight Compute or Nsight Systems",
    "wandb": "W&B's runs rebuilt from the records of a sweep, however it was logged",
    "wandb-sync": "sends the W&B runs of a sweep that was logged offline",
    "dashboard": "a W&B workspace that compares runs; --dry-run prints it",
}
RENAMED = {"plan": "status", "plan-backends": "tune", "why": "explain"}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are BadRequest, and so one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        name = self.prog.removeprefix("attn-lab ")
        raise BadRequest(f"{name}: {message} (see attn-lab {name} --help)")


def parse(command: str, words: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command, with `run`, its function.  Raises BadRequest; --help exits 0."""
    if command in RENAMED:
        raise BadRequest(f"{command}: this command is now called {RENAMED[command]}")
    if command not in COMMANDS:
        raise BadRequest(
            f"command: expected one of {', '.join(COMMANDS)}, or overrides such as backend=naive; "
            f"got {command!r}{did_you_mean(command, COMMANDS)} (see attn-lab --help)"
        )
    module = importlib.import_module(f"attn_lab.cli.{command.replace('-', '_')}")
    sub = Parser(f"attn-lab {command}", description=COMMANDS[command], allow_abbrev=False)
    sub.set_defaults(run=module.run)
    module.arguments(sub)
    given, unknown = sub.parse_known_intermixed_args(words)
    if getattr(given, "overrides", None) == []:  # a command of Hydra's words: its flags are Hydra's to check
        given.overrides = unknown
    elif unknown:
        options = [each for action in sub._actions for each in action.option_strings]
        raise BadRequest(
            f"{command}: unrecognized {' '.join(unknown)!r}{did_you_mean(unknown[0], options)} "
            f"(see attn-lab {command} --help)"
        )
    return given


def takes_overrides(parser: argparse.ArgumentParser) -> None:
    """This command is followed by Hydra's overrides and flags, in any order."""
    parser.usage = f"{parser.prog} [-h] [--json] [GROUP=OPTION ...] [KEY=VALUE ...]"
    parser.set_defaults(overrides=[])


def takes_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def key_values(command: str, words: Sequence[str], defaults: dict[str, str]) -> dict[str, str]:
    """KEY=VALUE words of a command that is not a sweep, over `defaults`.  Raises BadRequest for another key."""
    values = dict(defaults)
    for word in words:
        key, equals, value = word.partition("=")
        if key not in values or not equals:
            expected = ", ".join(f"{name}=…" for name in values)
            raise BadRequest(f"{command}: expected {expected}; got {word!r}{did_you_mean(key, values)}")
        values[key] = value
    return values
