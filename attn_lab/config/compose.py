"""A command line as Hydra understands it: the overrides of each case, and how they become a configuration."""

import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from attn_lab.config.command_line import check_flags, checked
from attn_lab.config.schema import register
from attn_lab.core.errors import BadRequest
from attn_lab.core.suggest import did_you_mean


@dataclass(frozen=True)
class Composition:
    """What a command line asks for.

    jobs      the overrides of each case, in order
    compose   makes one case's configuration; what it returns is good until it is called again
    launcher  the settings of the executor
    """

    jobs: Sequence[Sequence[str]]
    compose: Callable[[Sequence[str]], DictConfig]
    launcher: Any


def compose(argv: Sequence[str]) -> Composition | None:
    """Have Hydra take the command line apart.  None where it answered a flag of its own, such as --cfg."""
    found: list[Composition] = []

    def task(jobs: Any, compose: Any = None, launcher: Any = None) -> None:
        if compose is None:
            raise BadRequest("hydra.mode: expected MULTIRUN, in which one case is a sweep of one")
        found.append(Composition(jobs, compose, launcher))

    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are printed by us, in one line
    sys.argv = ["attn-lab", *_flags_first(list(argv))]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", category=UserWarning, module=r"hydra\.")  # of words that have no effect
            hydra.main(version_base="1.3", config_path="pkg://attn_lab.conf", config_name="config")(task)()
    except UserWarning as warning:
        raise BadRequest(" ".join(str(warning).split())) from None
    return found[0] if found else None


def _flags_first(argv: list[str]) -> list[str]:
    """Hydra's command line with its flags before the overrides, wherever they stood, and -m among them: all are swept.

    hydra.mode says so too, but not when composing fails: without -m Hydra then complains of commas instead.
    """
    parser = get_args_parser()
    known = [each for action in parser._actions for each in action.option_strings]

    def refuse(message: str) -> None:
        wrong = next((word for word in argv if word.startswith("-") and word not in known), "")
        raise BadRequest(f"flags: expected those of Hydra (attn-lab --hydra-help lists them); got {message}"
                         f"{did_you_mean(wrong, known)}")  # fmt: skip

    parser.error = refuse  # type: ignore[assignment,method-assign]
    given = parser.parse_intermixed_args(argv)
    check_flags(given)
    overrides = checked(given.overrides)
    flags = [word for word in argv if word not in given.overrides and word not in ("-m", "--multirun")]
    if not (given.run or given.cfg or given.info or given.shell_completion):  # of which Hydra wants one at most
        flags.append("--multirun")
    # Hydra composes what is not swept before our sweeper, which knows what A+B means, has seen it.
    overrides = [re.sub(r"^backend=([^,()]*\+[^,()]*)$", r"backend=choice(\1)", word) for word in overrides]
    return [*overrides, *flags] if given.info else [*flags, *overrides]  # --info would take an override for its value
