"""Two halves, of one backend or of two, made one function that autograd can differentiate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attn_lab.core.backend import AttentionFn, Split, for_any_size


def joined(forward: Split, backward: Split) -> AttentionFn:
    """Plain torch: no custom operator, whose dispatch would cost each call more; torch.compile traces into both halves.

    What is saved is what every flash-type backward wants: q, k, v, out and lse.  Where the backward writes where it is
    told to, the function has a second form, `packed(qkv, heads)`, of one tensor (batch, seq, all heads, head_dim), to
    (batch, seq, heads · head_dim): its gradient comes whole, where autograd would copy three together, which holds and
    moves them once more.
    """
    into, back, back_into = forward.forward, backward.backward, backward.backward_into

    class Joined(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out, lse = into(q, k, v)
            ctx.save_for_backward(q, k, v, out, lse)
            return out

        @staticmethod
        def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            _first_derivative_only()
            return back(dout, *ctx.saved_tensors)  # type: ignore[misc]  # the limits promised one

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return Joined.apply(q, k, v)

    if forward.any_size and backward.any_size:
        for_any_size(attend)
    if back_into is None:
        return attend
    write = back_into

    class Packed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, qkv: Tensor, heads: Sequence[int]) -> Tensor:
            out, lse = into(*qkv.split_with_sizes(heads, dim=2))
            ctx.save_for_backward(qkv, out, lse)
            ctx.heads = heads
            return out

        @staticmethod
        def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
            _first_derivative_only()
            qkv, out, lse = ctx.saved_tensors
            dqkv = torch.empty_like(qkv)
            write(dout, *qkv.split_with_sizes(ctx.heads, dim=2), out, lse, *dqkv.split_with_sizes(ctx.heads, dim=2))
            return dqkv, None

    attend.packed = lambda qkv, heads: Packed.apply(qkv, heads).flatten(2)  # type: ignore[attr-defined]
    return attend


def _first_derivative_only() -> None:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError("attention: expected a first derivative only; these kernels have no second "
                           "(backend='naive', 'naive_fp32' or 'sdpa_math' has)")  # fmt: skip
