"""Two halves, of one backend or of two, made one function that autograd can differentiate."""

from typing import Any

import torch
from torch import Tensor

from attn_lab.core.backend import Attend, Split


def joined(forward: Split, backward: Split) -> Attend:
    """Plain torch: no custom operator, whose dispatch would cost each call more; torch.compile traces into both halves.

    What is saved is what every flash-type backward wants: q, k, v, out and lse.
    """
    into, back = forward.forward, backward.backward

    class Joined(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out, lse = into(q, k, v)
            ctx.save_for_backward(q, k, v, out, lse)
            return out

        @staticmethod
        def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            if torch.is_grad_enabled() and not torch.compiler.is_compiling():
                raise RuntimeError("attention: expected a first derivative only; its kernels have no second")
            return back(dout, *ctx.saved_tensors)  # type: ignore[misc]  # the limits promised one

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return Joined.apply(q, k, v)

    return attend
