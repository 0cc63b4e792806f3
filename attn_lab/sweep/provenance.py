"""Which source, which machine and which sweep a record comes from."""

import os
import re
import subprocess
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

from attn_lab import __version__
from attn_lab.bench.case import Case
from attn_lab.bench.record import Provenance
from attn_lab.core.machine import Machine, software

TOOLS = ("hydra-core", "omegaconf", "wandb")


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def new_sweep_id(name: str) -> str:
    """Unique to one invocation: NAME-DATE-TIME-PID."""
    return f"{name.replace('/', '-')}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{os.getpid()}"


def provenance_of(case: Case, machine: Machine, sweep: str) -> Provenance:
    commit, dirty = source()
    versions = {"attn_lab": __version__, **software(machine)}
    backend = [name for limits in case.who.limits.values() for name in limits.packages]
    versions |= {name: machine.packages[name] for name in (*TOOLS, *backend) if name in machine.packages}
    return Provenance(
        machine=machine.as_json(), versions=versions, commit=commit, dirty=dirty, config=case.config,
        started=now(), sweep=sweep,
    )  # fmt: skip


@lru_cache(maxsize=1)
def source() -> tuple[str, bool]:
    """(commit, has uncommitted changes) of this package's source.

    From git where the package is a checkout; else from ATTN_LAB_COMMIT, in the form of `git describe --always
    --abbrev=40 --dirty`, for a copy taken somewhere without its history; else the release's version, as clean.
    """
    here = Path(__file__).resolve().parents[1]
    git = ["git", "-C", str(here)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        described = os.environ.get("ATTN_LAB_COMMIT", f"release {__version__}")
    return re.sub("-dirty$", "", described), described.endswith("-dirty")
