"""Backends and masks by the names of their files, as `backend=` and `mask=` have them on the command line."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from attn_lab import backends, masks
from attn_lab.backends.paired import Paired
from attn_lab.core.backend import Backend
from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import Mask

BackendLike = Backend | str
PAIRED = "paired"  # made of two others, and not by its own name
AUTO = "auto"  # the fastest by a table of measurements, or by a measurement at first use


def backend_names() -> list[str]:
    """Every backend there is, one a file, and `auto`, which chooses among them and pairs, as "sdpa_cudnn+flash4"."""
    return sorted([AUTO, *_single()])


def backend_named(name: BackendLike) -> Backend:
    """The backend of that name, "FORWARD+BACKWARD" included, or itself.  Raises BadRequest for another name."""
    if isinstance(name, str) and "+" in name:
        return paired_named(*name.split("+", 1))
    backend: Backend = _instance("backend", name, Backend, backends)
    return backend


def paired_named(forward: BackendLike, backward: BackendLike) -> Paired:
    """The forward of one with the backward of another.  Raises BadRequest for another name, or a pair in a pair."""
    halves = {"forward": forward, "backward": backward}
    return Paired(*(_instance(f"backend.{half}", each, Backend, backends) for half, each in halves.items()))


def mask_named(mask: Mask | str) -> Mask:
    """The mask of that name with its defaults, or itself.  Raises BadRequest for another name."""
    instance: Mask = _instance("mask", mask, Mask, masks)
    return instance


def _instance(what: str, name: Any, kind: type, folder: ModuleType) -> Any:
    """`name` itself if it is of that kind, or the one class of that kind in the file of that name."""
    if kind in type(name).__mro__:
        return name
    known = _single() if folder is backends else _files(folder)
    if name not in known:
        also = ["FORWARD+BACKWARD", AUTO] if what == "backend" else []
        raise BadRequest(f"{what}: expected {', '.join([*known, *also])}, or an object of that kind; got {name!r}")
    module = importlib.import_module(f"{folder.__name__}.{name}")
    (found,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and kind in each.__mro__ and each.__module__ == module.__name__
    )
    return found()


def _single() -> list[str]:
    return [name for name in _files(backends) if name != PAIRED]


def _files(folder: ModuleType) -> list[str]:
    return sorted(file.name for file in pkgutil.iter_modules(folder.__path__) if not file.name.startswith("_"))
