"""The front door: which command was meant, how it ended, and the exit code that says so."""

import importlib
import io
import os
import sys
from collections.abc import Sequence

COMMANDS = {  # a word, and the function that is given what follows it and returns the exit code
    "certify": "attn_lab.certify.command:certify",
    "dashboard": "attn_lab.share.dashboard:dashboard",
    "diff": "attn_lab.report.diff:diff",
    "doctor": "attn_lab.sweep.doctor:doctor",
    "plan": "attn_lab.cli:_plan",
    "plan-backends": "attn_lab.report.planner:plan_backends",
    "report": "attn_lab.report.command:report",
    "nsight": "attn_lab.sweep.nsight:nsight",
    "selfcheck": "attn_lab.selfcheck.command:selfcheck",
    "show": "attn_lab.sweep.show:show",
    "why": "attn_lab.sweep.why:why",
    "wandb-sync": "attn_lab.share.sync:sync",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """attn-lab [COMMAND … | Hydra overrides].  Exits 0, 1 (a case wrong or failed), 2 (bad request), 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler else writes its comings and goings to stderr
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show × shows ?
    try:
        sys.exit(_dispatch(words))
    except KeyboardInterrupt:  # of a command, or before a sweep has begun
        print("attn-lab: interrupted", file=sys.stderr)
        sys.exit(130)


def _dispatch(words: list[str]) -> int:
    from attn_lab.core.errors import BadRequest

    try:
        if words and words[0] == "--version":
            from attn_lab import __version__

            print(f"attn-lab {__version__}")
            return 0
        if words and "=" not in words[0] and not words[0].startswith(("-", "~", "+")):
            if words[0] not in COMMANDS:
                raise BadRequest(
                    f"command: expected {', '.join(COMMANDS)}, or overrides such as backend=naive; got {words[0]!r}"
                )
            module, _, function = COMMANDS[words[0]].partition(":")
            return int(getattr(importlib.import_module(module), function)(words[1:]))
        return _sweep(words)
    except BadRequest as error:
        print(f"attn-lab: {error}", file=sys.stderr)
        return 2


def _plan(words: list[str]) -> int:
    from rich.console import Console

    from attn_lab.run.main import plan_sweep

    if plan := plan_sweep(words):
        from attn_lab.sweep.todo import show

        show(plan.statuses, plan.sweep.folder, Console())
    return 0


def _sweep(words: list[str]) -> int:
    from attn_lab.run.main import run_sweep

    return run_sweep(words)
