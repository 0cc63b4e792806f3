"""The oracle: exact attention and its gradients, in any dtype, one block of queries at a time; slow and plain."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from attn_lab.core.backend import AttentionFn
from attn_lab.core.mask import Mask, dense, query_positions
from attn_lab.core.shape import Shape

BLOCK_ELEMENTS = 2**25  # of one block's score matrix


def oracle(mask: Mask, shape: Shape, batch: Tensor, head: Tensor) -> AttentionFn:
    """Attention over the batch elements `batch` and query heads `head` (1-D, int64) of a whole problem.

    The function returned takes q (B, Sq, H, d) and k, v (B, Sk, Hkv, d) holding just those, B = len(batch),
    H = len(head); key/value heads are shared evenly.  It is differentiable, and computes in its inputs' dtype with
    k's and v's gradients summed over blocks in at least float32.  Queries that may attend to nothing give zero.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = _Blocked.apply(q, k, v, mask, shape, batch, head)
        assert isinstance(out, Tensor)
        return out

    return attend


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Mask, shape: Shape, batch: Tensor, head: Tensor
    ) -> Tensor:
        ctx.problem = (mask, shape, batch, head)
        out = torch.empty_like(q)
        for rows, weights in _blocks(q, k, ctx.problem):
            out[:, rows] = torch.einsum("bhqk,bkhd->bqhd", weights, _per_query_head(v, q))
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dout,) = grads
        q, k, v, out = ctx.saved_tensors
        wide = torch.promote_types(q.dtype, torch.float32)
        scale = ctx.problem[1].scale
        keys, values = _per_query_head(k, q), _per_query_head(v, q)
        dq = torch.empty_like(q)
        dk, dv = torch.zeros_like(keys, dtype=wide), torch.zeros_like(values, dtype=wide)
        # Σ weights·dweights, from the rounded output as every fused kernel has it (FlashAttention-2, algorithm 2)
        delta = (dout * out).sum(-1).transpose(1, 2).unsqueeze(-1)  # (B, H, Sq, 1)
        for rows, weights in _blocks(q, k, ctx.problem):
            dv += torch.einsum("bhqk,bqhd->bkhd", weights, dout[:, rows])
            dweights = torch.einsum("bqhd,bkhd->bhqk", dout[:, rows], values)
            dscores = weights * (dweights - delta[:, :, rows])
            dq[:, rows] = torch.einsum("bhqk,bkhd->bqhd", dscores, keys) * scale
            dk += torch.einsum("bhqk,bqhd->bkhd", dscores, q[:, rows]) * scale
        return dq, _sum_groups(dk, k), _sum_groups(dv, v), None, None, None, None


def _blocks(q: Tensor, k: Tensor, problem: tuple[Mask, Shape, Tensor, Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """(slice of queries, weights (B, H, rows, Sk)) for one block of queries after another."""
    mask, shape, batch, head = problem
    keys = _per_query_head(k, q)
    positions = query_positions(shape, q.device)
    size = max(1, BLOCK_ELEMENTS // (len(batch) * len(head) * shape.seq_len_kv))
    for start in range(0, shape.seq_len, size):
        rows = slice(start, start + size)
        scores = torch.einsum("bqhd,bkhd->bhqk", q[:, rows] * shape.scale, keys)
        allowed = dense(mask, shape, q.device, batch=batch, head=head, query=positions[rows])
        weights = torch.softmax(scores.masked_fill(~allowed, float("-inf")), dim=-1)
        yield rows, weights.masked_fill(~allowed, 0.0)  # a row that sees nothing is NaN until here


def _per_query_head(kv: Tensor, q: Tensor) -> Tensor:
    return kv.repeat_interleave(q.shape[2] // kv.shape[2], dim=2)


def _sum_groups(gradient: Tensor, kv: Tensor) -> Tensor:
    batch, seq, heads, head_dim = kv.shape
    return gradient.view(batch, seq, heads, -1, head_dim).sum(3).to(kv.dtype)
