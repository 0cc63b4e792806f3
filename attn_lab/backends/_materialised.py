"""Attention with its scores written out in memory: what a page of PyTorch does, in a stated softmax precision."""

import torch
import torch.nn.functional as F
from torch import Tensor

from attn_lab.core.backend import AttentionFn, Split, for_any_size
from attn_lab.core.machine import Machine
from attn_lab.core.mask import FULL, dense, dense_like, dense_ragged
from attn_lab.core.request import Request


def materialised(request: Request, machine: Machine, softmax_dtype: torch.dtype | None) -> AttentionFn:
    """softmax(q·kᵀ·scale + mask)·v with every (seq_len, seq_len_kv) matrix materialised; None: the input's dtype."""
    shape, mask, scale, dropout = request.shape, request.mask, request.softmax_scale, request.dropout
    full = not mask.ragged and mask.band == FULL

    def under(forbidden: Tensor | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))  # (batch, heads, seq, head_dim)
        if shape.group_size > 1:
            k, v = (tensor.repeat_interleave(shape.group_size, dim=1) for tensor in (k, v))
        scores = (q * scale) @ k.transpose(-2, -1)  # (batch, heads, seq_len, seq_len_kv)
        if forbidden is not None:
            scores = scores.masked_fill(forbidden, float("-inf"))
        weights = torch.softmax(scores, dim=-1, dtype=softmax_dtype).to(q.dtype)
        if dropout:
            weights = F.dropout(weights, dropout)
        return (weights @ v).transpose(1, 2)

    def ragged(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
        return under(~dense_ragged(mask, q, k, lengths), q, k, v)

    def any_size(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return under(None if full else ~dense_like(mask, q, k), q, k, v)

    if mask.ragged:
        return for_any_size(ragged)
    if full:
        return for_any_size(any_size)
    forbidden = ~dense(mask, shape, machine.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return under(forbidden, q, k, v)

    if mask.uniform:
        attend.any_size = any_size  # type: ignore[attr-defined]
    return attend


def materialised_split(request: Request, machine: Machine, softmax_dtype: torch.dtype | None) -> Split:
    """The same by halves.  The backward makes the weights again, and normalises them itself: its scores are rounded to
    the input's dtype, which the lse of another's forward knows nothing of (of one key alone the weight was 1 ± 0.001).
    """
    shape, scale, group = request.shape, request.softmax_scale, request.shape.group_size
    forbidden = None
    if request.mask.band != FULL:
        forbidden = ~dense(request.mask, shape, machine.device)

    def scores_of(q: Tensor, k: Tensor) -> Tensor:
        scores = (q * scale) @ k.transpose(-2, -1)
        return scores if forbidden is None else scores.masked_fill(forbidden, float("-inf"))

    def repeated(kv: Tensor) -> Tensor:
        return kv.transpose(1, 2).repeat_interleave(group, dim=1) if group > 1 else kv.transpose(1, 2)

    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        scores = scores_of(q.transpose(1, 2), repeated(k))
        weights = torch.softmax(scores, dim=-1, dtype=softmax_dtype).to(q.dtype)
        return (weights @ repeated(v)).transpose(1, 2), torch.logsumexp(scores.float(), dim=-1)

    def backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = softmax_dtype or q.dtype
        apply_rotary, keys, dout = q.transpose(1, 2), repeated(k), dout.transpose(1, 2)
        weights = torch.softmax(scores_of(apply_rotary, keys), dim=-1, dtype=wide)
        dweights = (dout @ repeated(v).transpose(-2, -1)).to(wide)
        dscores = torch.ops.aten._softmax_backward_data(dweights, weights, -1, wide).to(q.dtype)
        dq = (dscores @ keys) * scale
        dk = (dscores.transpose(-2, -1) @ apply_rotary) * scale
        dv = weights.to(q.dtype).transpose(-2, -1) @ dout
        if group > 1:
            dk, dv = (grad.unflatten(1, (-1, group)).sum(2) for grad in (dk, dv))
        return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)

    return Split(forward, backward, any_size=forbidden is None)
