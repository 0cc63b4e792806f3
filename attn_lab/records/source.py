"""When, by which sweep and from which source of this package a record is made."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def new_sweep_id(name: str) -> str:
    """Unique to one invocation: NAME-DATE-TIME-PID."""
    return f"{name.replace('/', '-')}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}"


@lru_cache(maxsize=1)
def source() -> tuple[str, bool]:
    """(commit, has uncommitted changes) of this package's source.

    From ATTN_LAB_COMMIT where it is set, in the form of `git describe --always --abbrev=40 --dirty`: a copy taken
    somewhere may have no history, or an older one than its files; else from git where the package is a checkout; else
    the release's version, as clean.
    """
    if described := os.environ.get("ATTN_LAB_COMMIT", ""):
        return re.sub("-dirty$", "", described), described.endswith("-dirty")
    git = ["git", "-C", str(PACKAGE)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        described = f"release {sys.modules['attn_lab'].__version__}"
    return re.sub("-dirty$", "", described), described.endswith("-dirty")
