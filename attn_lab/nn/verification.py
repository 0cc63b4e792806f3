"""Verification at first use: a small case of a request's kind, output and gradients, before a model relies on it."""

import hashlib
import logging
import os
import threading
import time
import warnings
from functools import cache
from pathlib import Path

import torch

from attn_lab import backends
from attn_lab.core.backend import Backend, backend_name
from attn_lab.core.certificate import Certificate, Findings, Kind, shipped
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine, software
from attn_lab.core.request import Request
from attn_lab.core.user_cache import cache_folder, shown
from attn_lab.nn.in_thread import in_thread
from attn_lab.nn.small_case import small_case_reason

OFF = ("off", "0", "false", "no")
log = logging.getLogger("attn_lab")


def is_enabled() -> bool:
    """Whether ATTN_LAB_VERIFY leaves verification on, as it does unless it is off, 0, false or no."""
    return os.environ.get("ATTN_LAB_VERIFY", "on").lower() not in OFF


def verified_reasons(backend: Backend, request: Request, machine: Machine) -> list[str]:
    """Why a backend that declares a request supported is not to be trusted with it: [] if its kind is right here.

    A kind is looked up in the shipped certificates and in the user's cache; one that is in neither is verified now by a
    small case, and the result is kept.  A request with dropout is verified without.

    Args:
        backend: the one that answers, not one that chooses among others.
        request: only its kind counts.
        machine: the device of the tensors.

    Returns:
        Reasons, each naming the error and the error allowed.
    """
    if not is_enabled():
        return []
    kind, name = Kind.of(request), backend_name(backend)
    known = _known(backend, machine)
    for each in kind.covering:
        if each in known.verified:
            return []
    if kind in known.incorrect:
        return [known.incorrect[kind]]
    if (torch.compiler.is_compiling() or _is_tracing()) and getattr(backend, "needs_dynamo", False):
        warnings.warn(f"attn_lab: {name} is not verified at {kind}: its kernels cannot be compiled while another "
                      "graph is traced (call the layer once before torch.compile)", stacklevel=2)  # fmt: skip
        return []
    begin = time.perf_counter()
    try:
        reason = in_thread(lambda: small_case_reason(backend, request, machine), machine)
    except torch.OutOfMemoryError:
        warnings.warn(f"attn_lab: {name} is not verified at {kind}: out of memory", stacklevel=2)
        return []
    took = (time.perf_counter() - begin) * 1e3
    _remember(backend, machine, kind, reason)
    if reason:
        log.warning("attn_lab: %s is incorrect at %s: %s", name, kind, reason)
        return [reason]
    path = _cache_file(machine)
    log.info(
        "attn_lab: %s verified at %s in %.0f ms (%s)",
        name,
        kind,
        took,
        f"kept in {shown(path)}" if path else "not kept",
    )
    return []


def _is_tracing() -> bool:
    return torch.compiler.is_exporting() or torch._dynamo.is_compiling()


# Findings of this process, by backend and machine, the user's cache among them.
_FOUND: dict[tuple[str, str, str], Findings] = {}
_WRITING = threading.Lock()


def _known(backend: Backend, machine: Machine) -> Findings:
    key = _key(backend, machine)
    if key not in _FOUND:
        found = Findings()
        for certificate in shipped():
            if certificate.holds_for(machine):
                found = found.merged(certificate.findings(backend_name(backend), machine) or Findings())
        cached = _cached(machine)
        if cached is not None and _is_ours(backend):
            found = found.merged(cached.findings(backend_name(backend), machine) or Findings())
        _FOUND[key] = found
    return _FOUND[key]


def _remember(backend: Backend, machine: Machine, kind: Kind, reason: str) -> None:
    versions = package_versions(backend, machine)
    fresh = Findings(versions, incorrect={kind: reason}) if reason else Findings(versions, frozenset([kind]))
    keep_findings(backend, machine, fresh)


def keep_findings(backend: Backend, machine: Machine, fresh: Findings) -> None:
    """Add to what this process and the user's cache know of a backend; of a kind in both the newer counts."""
    with _WRITING:
        _FOUND[_key(backend, machine)] = _known(backend, machine).merged(fresh)
        if not _is_ours(backend):
            return  # another's code may change without a version: it is verified in each process
        try:
            path = _cache_file(machine)
            if path is None:
                return
            before = _cached(machine) or Certificate(machine.name, software(machine), source=str(path))
            before.with_findings(backend_name(backend), fresh).write(path)
        except OSError as error:
            warnings.warn(f"attn_lab: verifications are not kept: {error}", stacklevel=2)


def package_versions(backend: Backend, machine: Machine) -> dict[str, str]:
    """Versions of the packages that a backend's kernels come from, those of a pair's halves included."""
    found = {}
    for each in backend.parts or (backend,):
        capabilities = each.capabilities.get(machine.device)
        for name in capabilities.packages if capabilities else ():
            if name in machine.packages:
                found[name] = machine.packages[name]
    return found


def _key(backend: Backend, machine: Machine) -> tuple[str, str, str]:
    kinds = " ".join(f"{type(each).__module__}.{type(each).__qualname__}" for each in (backend, *backend.parts))
    return kinds, machine.name, str(cache_folder())


def _is_ours(backend: Backend) -> bool:
    return all(type(each).__module__.startswith("attn_lab.backends.") for each in (backend, *backend.parts))


@cache
def _source_digest() -> str:
    """Of the files of all backends: where one is changed, every kind is verified anew."""
    files = sorted(Path(backends.__path__[0]).glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _cache_file(machine: Machine) -> Path | None:
    folder = cache_folder()
    if folder is None:
        return None
    own = (machine.name, sorted(software(machine).items()), _source_digest())
    digest = hashlib.sha256(repr(own).encode()).hexdigest()[:12]
    return folder / f"verified-{digest}.json"


def _cached(machine: Machine) -> Certificate | None:
    path = _cache_file(machine)
    if path is None or not path.exists():
        return None
    try:
        return Certificate.read(path)
    except BadRequest as error:
        warnings.warn(f"attn_lab: {error} (remove it, and it is made anew)", stacklevel=2)
        return None
