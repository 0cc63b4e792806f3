"""Backends and masks by the names of their files, as `backend=` and `mask=` have them on the command line."""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from attn_lab import backends, masks
from attn_lab.backends.paired import Paired
from attn_lab.core.backend import Backend
from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import Mask

BackendLike = Backend | str
PAIRED = "paired"  # made of two others, and not by its own name
AUTO = "auto"  # whoever a plan, or a measurement on the spot, has as the fastest


def backend_names() -> list[str]:
    """Every backend there is, one a file, and `auto`, which chooses among them and pairs, as "sdpa_cudnn+flash4"."""
    return sorted([AUTO, *_single()])


def mask_names() -> list[str]:
    """Every mask there is, one a file."""
    return _files(masks)


def backends_named(asked: BackendLike | Sequence[BackendLike]) -> tuple[Backend, ...]:
    """The backends asked for, by name or themselves, in order of preference.  Raises BadRequest for another name."""
    several = list(asked) if isinstance(asked, list | tuple) else [asked]
    if not several:
        raise BadRequest(f"backend: expected at least one of {', '.join(backend_names())}; got an empty list")
    return tuple(_made("backend", one, Backend, backends) for one in several)


def paired_named(forward: BackendLike, backward: BackendLike) -> Paired:
    """The forward of one with the backward of another.  Raises BadRequest for another name, or a pair in a pair."""
    return Paired(*(_made(f"backend.{half}", each, Backend, backends)
                    for half, each in (("forward", forward), ("backward", backward))))  # fmt: skip


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
    if what == "backend" and isinstance(asked, str) and "+" in asked:
        return paired_named(*asked.split("+", 1))
    known = _single() if room is backends else _files(room)
    if asked not in known:
        either = ["FORWARD+BACKWARD", AUTO] if what == "backend" else []
        raise BadRequest(f"{what}: expected {', '.join([*known, *either])}, or an object of that kind; got {asked!r}")
    module = importlib.import_module(f"{room.__name__}.{asked}")
    (found,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and kind in each.__mro__ and each.__module__ == module.__name__
    )
    return found()


def _single() -> list[str]:
    return [name for name in _files(backends) if name != PAIRED]


def _files(room: Any) -> list[str]:
    return sorted(file.name for file in pkgutil.iter_modules(room.__path__) if not file.name.startswith("_"))
