"""Attention with its scores written out in memory: what a page of PyTorch does, in a stated softmax precision."""

import torch
import torch.nn.functional as F
from torch import Tensor

from attn_lab.core.backend import Attend, Request
from attn_lab.core.machine import Machine
from attn_lab.core.mask import FULL, dense


def materialised(request: Request, machine: Machine, softmax_dtype: torch.dtype | None) -> Attend:
    """softmax(q·kᵀ·scale + mask)·v with every (seq_len, seq_len_kv) matrix materialised; None: the input's dtype."""
    shape, scale, dropout = request.shape, request.softmax_scale, request.dropout
    forbidden = None
    if request.mask.band != FULL:
        forbidden = ~dense(request.mask, shape, machine.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
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

    return attend
