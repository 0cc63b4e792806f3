"""Which source, which machine and which sweep a record comes from, and what of it an answer stands on."""

import hashlib
import inspect
import os
import re
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cache, lru_cache
from pathlib import Path

from attn_lab import __version__
from attn_lab.bench.case import Case
from attn_lab.core.backend import Backend
from attn_lab.core.machine import Machine, software
from attn_lab.records.record import Provenance

HOUSE = Path(__file__).resolve().parents[1]
TOOLS = ("hydra-core", "omegaconf", "wandb")
MEASURES = (
    "core",
    "bench",
    "layer",
    "probes",
    "subjects",
    "backends/_*",
    "masks/__init__",
    "integrations/transformers",
)  # shared by all cases


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def new_sweep_id(name: str) -> str:
    """Unique to one invocation: NAME-DATE-TIME-PID."""
    return f"{name.replace('/', '-')}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{os.getpid()}"


def provenance_of(case: Case, machine: Machine, sweep: str, command: str) -> Provenance:
    commit, dirty = source()
    versions = {name: version for name, version in case.basis.items() if name not in _of_machine(machine)}
    versions |= {name: machine.packages[name] for name in TOOLS if name in machine.packages}
    return Provenance(
        machine=machine.as_json(), versions=versions, commit=commit, dirty=dirty, config=case.config,
        started=now(), sweep=sweep, command=command,
    )  # fmt: skip


def basis_of(who: Backend, parts: Sequence[object], machine: Machine) -> dict[str, str]:
    """What can change the answer to a question: the machine, versions, and the sources of all that measures.

    Of an attn_lab backend or mask the own file counts, of another's parts the file that defines them; what those import
    in turn does not.
    """
    backends = [who, *getattr(who, "parts", ())]
    # That a backend has limits is checked later, with all else it must have.
    every = [limits for each in backends for limits in getattr(each, "limits", {}).values()]
    packages = {name for limits in every for name in limits.packages}
    packages |= {name for part in parts for name in getattr(part, "packages", ())}
    return {
        **_of_machine(machine),
        "attn_lab": __version__,
        "source": _fingerprint(frozenset(map(type, [*backends, *parts]))),
        **({"plan": who.plan_digest(machine)} if hasattr(who, "plan_digest") else {}),
        **software(machine),
        **{name: machine.packages[name] for name in sorted(packages) if name in machine.packages},
    }


def _of_machine(machine: Machine) -> dict[str, str]:
    own = {"driver": str(machine.driver)} if machine.device == "cuda" else {"threads": str(machine.threads)}
    return {"machine": machine.name, **own}


@cache
def _fingerprint(kinds: frozenset[type]) -> str:
    """8 hex digits of a hash of the files that measure, and of those that define `kinds`."""
    files = {file for place in MEASURES for file in HOUSE.glob(f"{place}/*.py" if "/" not in place else f"{place}.py")}
    for kind in kinds:
        try:
            files.add(Path(inspect.getfile(kind)).resolve())
        except (TypeError, OSError):  # built in, or made without a file
            continue
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:8]


@lru_cache(maxsize=1)
def source() -> tuple[str, bool]:
    """(commit, has uncommitted changes) of this package's source.

    From ATTN_LAB_COMMIT where it is set, in the form of `git describe --always --abbrev=40 --dirty`: a copy taken
    somewhere may have no history, or an older one than its files; else from git where the package is a checkout; else
    the release's version, as clean.
    """
    if described := os.environ.get("ATTN_LAB_COMMIT", ""):
        return re.sub("-dirty$", "", described), described.endswith("-dirty")
    git = ["git", "-C", str(HOUSE)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        described = f"release {__version__}"
    return re.sub("-dirty$", "", described), described.endswith("-dirty")
