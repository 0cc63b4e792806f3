"""The front door: which command was meant, how it ended, and the exit code that says so."""

import gc
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Sequence

COMMANDS = {  # a word, and the function that is given what follows it and returns the exit code
    "dashboard": "attn_lab.share.dashboard:dashboard",
    "diff": "attn_lab.report.diff.command:diff",
    "doctor": "attn_lab.sweep.doctor:doctor",
    "plan": "attn_lab.cli:_plan",
    "plan-backends": "attn_lab.report.planner:plan_backends",
    "report": "attn_lab.report.command:report",
    "nsight": "attn_lab.sweep.nsight:nsight",
    "selfcheck": "attn_lab.sweep.selfcheck:selfcheck",
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
    return _sweep(words, looking=True)


def _sweep(words: list[str], looking: bool = False) -> int:
    from attn_lab.sweep.nursery import warm

    if not {"--help", "-h", "hydra/launcher=ray", "hydra/launcher=slurm"} & {*words}:  # of which none has workers here
        warm()  # before the imports, to import at the same time
    gc.disable()  # looking for garbage takes a fifth of the time in which torch is imported, where there is none

    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from rich.console import Console

    from attn_lab.core.errors import BadRequest
    from attn_lab.sweep.explain import explained
    from attn_lab.sweep.plan import register_resolvers
    from attn_lab.sweep.run import NoRoom, Run
    from attn_lab.sweep.schema import register
    from attn_lab.sweep.todo import show

    gc.freeze()
    gc.enable()
    register()
    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are ours to tell, in one line
    sys.argv = ["attn-lab", *_flags_first(words)]
    run = Run(Console(), words, looking=looking)
    trouble: BaseException | None = None
    before = signal.signal(signal.SIGINT, run.interrupt)
    try:
        try:
            hydra.main(version_base="1.3", config_path="pkg://attn_lab.conf", config_name="config")(run)()
        except NoRoom as stop:
            trouble = BadRequest(str(stop))
        except (HydraException, OmegaConfBaseException, ValueError, BadRequest) as error:
            trouble = explained(error)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  raised again below, when all is summed up
            trouble = error
        code = run.close()
    finally:  # interrupted once, all is said, and another must not upset the interpreter's own end
        signal.signal(signal.SIGINT, signal.SIG_IGN if run.interrupt.asked else before)
    if run.interrupt.asked:  # whatever the trouble is, Ctrl-C made it
        print(f"attn-lab: interrupted; {run.kept} of {len(run.cases)} cases are kept", file=sys.stderr)
        return 130
    if trouble is not None:
        raise trouble from None
    if looking:
        show(run.standings, run.path, run.console)
    return code


def _flags_first(words: list[str]) -> list[str]:
    """Hydra's command line with its flags before the overrides, wherever they stood, and -m among them: all are swept.

    hydra.mode says so too, but not when composing fails: without -m Hydra then complains of commas instead.
    """
    from hydra._internal.utils import get_args_parser

    from attn_lab.core.errors import BadRequest

    def refuse(message: str) -> None:
        raise BadRequest(f"flags: expected those of Hydra (attn-lab --hydra-help lists them); got {message}")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[assignment,method-assign]
    asked = parser.parse_intermixed_args(words)
    overrides = asked.overrides
    flags = [word for word in words if word not in overrides and word not in ("-m", "--multirun")]
    if not (asked.run or asked.cfg or asked.info or asked.shell_completion):  # of which Hydra wants one at most
        flags.append("--multirun")
    # Hydra composes what is not swept before our sweeper, which knows what A+B means, has seen it.
    return [*flags, *(re.sub(r"^backend=([^,()]*\+[^,()]*)$", r"backend=choice(\1)", word) for word in overrides)]
