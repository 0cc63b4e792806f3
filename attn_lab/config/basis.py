"""What a case's answer depends on beside its configuration: the machine, versions, and sources."""

import hashlib
import inspect
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from attn_lab import __version__
from attn_lab.core.backend import Backend
from attn_lab.core.machine import Machine, software

PACKAGE = Path(__file__).resolve().parents[1]
MEASURES = (  # shared by all cases
    "core/**/*.py",
    "measure/**/*.py",
    "nn/**/*.py",
    "profiling/*.py",
    "backends/_*.py",
    "masks/__init__.py",
    "integrations/transformers*.py",
)


def basis_of(backend: Backend, parts: Sequence[object], machine: Machine) -> dict[str, str]:
    """What can change the answer to a question: the machine, versions, and the sources of all that measures.

    Of an attn_lab backend or mask the own file counts, of another's parts the file that defines them; what those import
    in turn does not.
    """
    backends = _with_parts(backend)
    # That a backend has limits is checked later, with all else it must have.
    every = [capabilities for each in backends for capabilities in getattr(each, "capabilities", {}).values()]
    packages = {name for capabilities in every for name in capabilities.packages}
    packages |= {name for part in parts for name in getattr(part, "packages", ())}
    return {
        **machine_basis(machine),
        "attn_lab": __version__,
        "source": source_of(backend, parts),
        **({"table": backend.table_digest(machine)} if hasattr(backend, "table_digest") else {}),
        **software(machine),
        **{name: machine.packages[name] for name in sorted(packages) if name in machine.packages},
    }


def source_of(backend: Backend, parts: Sequence[object]) -> str:
    """A digest of the files that measure a case, as this process has them."""
    return _fingerprint(frozenset(map(type, [*_with_parts(backend), *parts])))


def machine_basis(machine: Machine) -> dict[str, str]:
    """The part of a basis that is the machine itself."""
    own = {"driver": str(machine.driver)} if machine.device == "cuda" else {"threads": str(machine.threads)}
    return {"machine": machine.name, **own}


def _with_parts(backend: Backend) -> list[Backend]:
    return [backend, *getattr(backend, "parts", ())]


@cache
def _fingerprint(kinds: frozenset[type]) -> str:
    """8 hex digits of a hash of the files that measure, and of those that define `kinds`."""
    files = {file for pattern in MEASURES for file in PACKAGE.glob(pattern)}
    for kind in kinds:
        try:
            files.add(Path(inspect.getfile(kind)).resolve())
        except (TypeError, OSError):  # built in, or made without a file
            continue
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:8]
