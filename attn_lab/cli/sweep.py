"""A sweep from its command line: Hydra composes the overrides, `Run` plans and runs the cases."""

import gc
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attn_lab.core.errors import BadRequest
from attn_lab.core.suggest import did_you_mean

if TYPE_CHECKING:
    from attn_lab.run.main import Run

NO_LOCAL_WORKERS = {"hydra/launcher=ray", "hydra/launcher=slurm", "hydra/launcher=basic"}
SECRET_FLAGS = ("--experimental-rerun",)  # Hydra unpickles the file it names


def run_sweep(argv: Sequence[str]) -> int:
    """Run what `argv` asks for.  Returns the exit code; raises BadRequest for what cannot be composed or planned."""
    run, trouble, code = _run(argv, looking=False)
    if run.interrupt.asked:  # whatever the trouble is, Ctrl-C made it
        print(f"attn-lab: interrupted; {run.kept} of {len(run.cases)} cases are kept", file=sys.stderr)
        return 130
    if trouble is not None:
        raise trouble from None
    return code


def planned(argv: Sequence[str]) -> "Run":
    """The sweep, planned only: nothing is run or written.  Raises BadRequest, KeyboardInterrupt."""
    run, trouble, _ = _run(argv, looking=True)
    if run.interrupt.asked:
        raise KeyboardInterrupt
    if trouble is not None:
        raise trouble from None
    return run


def _run(argv: Sequence[str], looking: bool) -> tuple["Run", BaseException | None, int]:
    flags = _flags_first(list(argv))
    if not looking and not NO_LOCAL_WORKERS & {*argv}:
        from attn_lab.run.local.fork_server import warm

        warm()  # before the imports, to import at the same time
    gc.disable()  # looking for garbage takes a fifth of the time in which torch is imported, where there is none

    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from rich.console import Console

    from attn_lab.config.errors import explained
    from attn_lab.config.schema import register
    from attn_lab.run.main import NoRoom, Run
    from attn_lab.run.plan import register_resolvers

    gc.freeze()
    gc.enable()
    register()
    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are printed by us, in one line
    sys.argv = ["attn-lab", *flags]
    run = Run(Console(), list(argv), looking=looking)
    trouble: BaseException | None = None
    before = signal.signal(signal.SIGINT, run.interrupt)
    try:
        try:
            hydra.main(version_base="1.3", config_path="pkg://attn_lab.conf", config_name="config")(run)()
        except NoRoom as stop:
            trouble = BadRequest(str(stop))
        except BadRequest as error:
            trouble = error
        except (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, ImportError, IndexError,
                OSError, OverflowError, RecursionError, AssertionError, KeyError) as error:  # fmt: skip
            # Until cases are planned, what Hydra raises is about the request; after that it is a crash of ours.
            trouble = error if run.standings else explained(error)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  raised again by the caller
            trouble = error
        code = run.close()
    finally:  # interrupted once, all is said, and another must not upset the interpreter's own end
        signal.signal(signal.SIGINT, signal.SIG_IGN if run.interrupt.asked else before)
    return run, trouble, code


def _flags_first(words: list[str]) -> list[str]:
    """Hydra's command line with its flags before the overrides, wherever they stood, and -m among them: all are swept.

    hydra.mode says so too, but not when composing fails: without -m Hydra then complains of commas instead.
    """
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    known = [each for action in parser._actions for each in action.option_strings]

    def refuse(message: str) -> None:
        wrong = next((word for word in words if word.startswith("-") and word not in known), "")
        raise BadRequest(f"flags: expected those of Hydra (attn-lab --hydra-help lists them); got {message}"
                         f"{did_you_mean(wrong, known)}")  # fmt: skip

    parser.error = refuse  # type: ignore[assignment,method-assign]
    if used := [word for word in words if word.partition("=")[0] in SECRET_FLAGS]:
        raise BadRequest(f"flags: expected none that unpickles a file; got {used[0]}")
    asked = parser.parse_intermixed_args(words)
    overrides = asked.overrides
    flags = [word for word in words if word not in overrides and word not in ("-m", "--multirun")]
    if not (asked.run or asked.cfg or asked.info or asked.shell_completion):  # of which Hydra wants one at most
        flags.append("--multirun")
    # Hydra composes what is not swept before our sweeper, which knows what A+B means, has seen it.
    overrides = [re.sub(r"^backend=([^,()]*\+[^,()]*)$", r"backend=choice(\1)", word) for word in overrides]
    return [*overrides, *flags] if asked.info else [*flags, *overrides]  # --info would take an override for its value
