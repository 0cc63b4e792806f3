"""Backends and masks by the names of their files, as `backend=` and `mask=` have them on the command line."""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from attn_lab import backends, masks
from attn_lab.core.backend import Backend
from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import Mask

BackendLike = Backend | str
AUTO = "auto"  # whoever a plan, or a measurement on the spot, has as the fastest


def backend_names() -> list[str]:
    """Every backend there is, one a file, and `auto`, which chooses among them."""
    return sorted([AUTO, *_files(backends)])


def mask_names() -> list[str]:
    """Every mask there is, one a file."""
    return _files(masks)


def backends_named(asked: BackendLike | Sequence[BackendLike]) -> tuple[Backend, ...]:
    """The backends asked for, by name or themselves, in order of preference.  Raises BadRequest for another name."""
    several = list(asked) if isinstance(asked, list | tuple) else [asked]
    if not several:
        raise BadRequest(f"backend: expected at least one of {', '.join(backend_names())}; got an empty list")
    return tuple(_made("backend", one, Backend, backends) for one in several)


def mask_named(asked: Mask | str) -> Mask:
    """The mask asked for, by name with its defaults, or itself.  Raises BadRequest for another name."""
    return _made("mask", asked, Mask, masks)


def _made(what: str, asked: Any, kind: type, room: Any) -> Any:
    """`asked` itself, or the one class of that kind in the file of that name, made with its defaults."""
    if kind in type(asked).__mro__:
        return asked
    if asked == AUTO and what == "backend":
        from attn_lab.layer.auto import Auto  # which names those it chooses among

        return Auto()
    if asked not in _files(room):
        known = backend_names() if what == "backend" else _files(room)
        raise BadRequest(f"{what}: expected {', '.join(known)}, or an object of that kind; got {asked!r}")
    module = importlib.import_module(f"{room.__name__}.{asked}")
    (found,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and kind in each.__mro__ and each.__module__ == module.__name__
    )
    return found()


def _files(room: Any) -> list[str]:
    return sorted(file.name for file in pkgutil.iter_modules(room.__path__) if not file.name.startswith("_"))
