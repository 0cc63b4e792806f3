"""Backends as a user names them: by name, as objects, or `auto`, alone or several in order of preference."""

from collections.abc import Sequence

from attn_lab.core.backend import Backend
from attn_lab.core.errors import BadRequest
from attn_lab.nn.auto.auto import Auto
from attn_lab.nn.registry import AUTO, BackendLike, backend_named, backend_names


def backends_named(names: BackendLike | Sequence[BackendLike]) -> tuple[Backend, ...]:
    """The backends of these names, in order of preference.  Raises BadRequest for an unknown name or an empty list."""
    several: list[BackendLike] = list(names) if isinstance(names, list | tuple) else [names]  # type: ignore[list-item]
    if not several:
        raise BadRequest(f"backend: expected at least one of {', '.join(backend_names())}; got an empty list")
    return tuple(Auto() if isinstance(name, str) and name == AUTO else backend_named(name) for name in several)
