"""An answer of a backend whose scores may overflow is looked at before a model gets it."""

import torch
from torch import Tensor

from attn_lab.core.backend import AttentionFn, Backend, backend_name
from attn_lab.core.errors import Incorrect
from attn_lab.core.request import Request
from attn_lab.nn.tracing import is_fake


def finite_only(attend: AttentionFn, backend: Backend, request: Request) -> AttentionFn:
    """`attend` itself, or, for a backend that materialises scores in a dtype they may outgrow, one that checks.

    The check waits for the device at each call.  It is left out while torch.compile or torch.export traces.
    """
    dtype = request.shape.dtype
    if dtype not in backend.overflows:
        return attend

    def checked(*tensors: Tensor) -> Tensor:
        out = attend(*tensors)
        if torch.compiler.is_compiling() or is_fake(out) or bool(torch.isfinite(out).all()):
            return out
        most = torch.finfo(out.dtype).max
        raise Incorrect(f"{backend_name(backend)}: expected scores within {most:.0f}, the largest {dtype}; "
                        "got an output that is not finite (backend='sdpa_math' has float32 scores)")  # fmt: skip

    for form in ("any_size", "packed"):
        if hasattr(attend, form):
            other = getattr(attend, form)
            setattr(checked, form, checked if other is attend else other)
    return checked
