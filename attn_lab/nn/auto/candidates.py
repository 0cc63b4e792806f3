"""The backends that `auto` selects from, by how soon they can be tried, and which of them this machine supports."""

from collections.abc import Sequence
from functools import cache

from attn_lab.core.backend import Backend
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine
from attn_lab.core.request import Request
from attn_lab.nn.registry import backend_named

# In the order in which they are measured; of two that are level the first is taken.
READY = ("sdpa_cudnn", "flash4", "sdpa_cudnn+flash4", "flash3", "flash2", "sdpa_flash", "sdpa_efficient")
# Only where none above is supported: compiling takes longer than a short measurement may.  And alone, so that it is
# not autotuned: tracing holds torch.compile's lock, and a measurement in another thread would wait for it forever.
COMPILED = ("flex",)
MATERIALISED = ("sdpa_math", "naive_fp32")  # where scores are small, or nothing else is supported
KNOWN = (*READY, *COMPILED, *MATERIALISED)
SMALL = 2**24  # scores


def supported_backends(request: Request, machine: Machine, passed_over: dict[str, Sequence[str]]) -> dict[str, Backend]:
    """The supported backends worth measuring against each other here; reasons of the others go to `passed_over`."""
    shape = request.shape
    small = shape.batch_size * shape.num_heads * shape.seq_len * shape.seq_len_kv <= SMALL
    for names in (READY + MATERIALISED * small, COMPILED, MATERIALISED):
        able: dict[str, Backend] = {}
        for name in names:
            if name in passed_over or ("+" in name and not request.needs_backward):
                continue  # a pair's forward is one of the others'
            if reasons := unsupported_reasons(name, request, machine):
                passed_over[name] = reasons
            elif backend := named(name):
                able[name] = backend
        if able:
            return able
    return {}


@cache
def named(name: str) -> Backend | None:
    """None for an unknown one, as `auto` is here: a table may come from a version that has more."""
    try:
        return backend_named(name)
    except BadRequest:
        return None


def unsupported_reasons(name: str, request: Request, machine: Machine) -> list[str]:
    backend = named(name)
    return ["no such backend in this version"] if backend is None else backend.unsupported_reasons(request, machine)
