"""The words of a command line before Hydra reads them: those that mean nothing here are refused, names are literal."""

import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from attn_lab import conf
from attn_lab.core.errors import BadRequest

OF_HYDRA = re.compile(r"(?:\+\+|\+|~)?(hydra(?:[./@][^=]*)?)(?:=.*)?", re.DOTALL)
MEANT = re.compile(r"hydra/(launcher|sweeper)|hydra\.(launcher|sweeper\.params)(\..*)?|hydra\.(sweep\.dir|searchpath)")
OURS = "hydra/launcher, hydra.launcher, hydra.searchpath, hydra.sweep.dir or hydra.sweeper.params"
NAME = re.compile(r"((?:\+\+)?name=)([^'\"\\,(){}$]+)", re.DOTALL)
FLAGS = {
    "config_name": "none: the configuration is always that of attn_lab",
    "config_path": "none: the configuration is always that of attn_lab; --config-dir adds a folder to it",
    "experimental_rerun": "none that unpickles a file",
}


def checked(overrides: Sequence[str]) -> list[str]:
    """The overrides with a literal name.  Raises BadRequest for settings of Hydra that mean nothing here."""
    for word in overrides:
        key = OF_HYDRA.fullmatch(word)
        if key and (word.startswith("~") or not MEANT.fullmatch(key[1])):
            raise BadRequest(f"{key[1]}: expected of Hydra's own settings {OURS}; got {word!r}")
        if key and key[1] == "hydra/sweeper" and not word.endswith("=cases"):
            raise BadRequest(f"hydra/sweeper: expected cases, which plans a sweep before it runs; got {word!r}")
    return [_literal_name(word) for word in overrides]


def check_flags(given: Namespace) -> None:
    """Raises BadRequest for flags of Hydra that mean nothing here; `given` is what Hydra's own parser made of them."""
    for name, expected in FLAGS.items():
        if value := getattr(given, name):
            raise BadRequest(f"flags: expected {expected}; got --{name.replace('_', '-')} {value}")
    if given.package and not given.cfg:
        raise BadRequest(
            f"flags: expected --package beside --cfg, which prints it; got --package {given.package} alone"
        )
    groups = sorted(each.name for each in Path(conf.__path__[0]).iterdir() if each.is_dir() and each.name[0] != "_")
    folder = given.config_dir and Path(given.config_dir)
    if folder and folder.is_dir() and not any((folder / group).is_dir() for group in groups):
        raise BadRequest(
            f"--config-dir: expected a folder with one of {', '.join(groups)} in it; got {given.config_dir}"
        )


def _literal_name(word: str) -> str:
    """`name=2026_11_28` quoted: Hydra would read a number, true or null and change how it is written."""
    found = NAME.fullmatch(word)
    return f"{found[1]}'{found[2]}'" if found and not found[2].startswith("[") else word
