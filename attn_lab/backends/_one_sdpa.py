"""torch's scaled_dot_product_attention held to one of its implementations: it raises rather than take another."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from threading import RLock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attn_lab.core.backend import AttentionFn, for_any_size
from attn_lab.core.machine import Machine
from attn_lab.core.mask import CAUSAL, FULL, dense, dense_like, dense_ragged
from attn_lab.core.request import Request


def is_plain(request: Request) -> bool:
    """Whether the fused flags alone say this mask: is_causal is aligned top-left."""
    return request.mask.band == FULL or (request.mask.band == CAUSAL and request.shape.offset == 0)


def by_operator(name: str, request: Request, **options: object) -> AttentionFn:
    """The implementation's own operator: it cannot be another's, and neither chooses nor sets flags at each call.

    Each call's microseconds count here: torch's own binding takes fewer than the one in torch.ops, which alone
    torch.compile traces; options bound once fewer than unpacked anew; three transpositions written out fewer than a
    generator; and where there is no backward, `packed(qkv, heads)` transposes q, k and v as one.
    """
    options |= {"dropout_p": request.dropout, "is_causal": request.mask.band == CAUSAL, "scale": request.softmax_scale}
    needs_backward = request.needs_backward
    bound, traced = (partial(one, **options) for one in (getattr(torch, name), getattr(torch.ops.aten, name).default))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        operator = traced if torch.compiler.is_compiling() else bound
        return operator(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))[0].transpose(1, 2)

    def packed(qkv: Tensor, heads: Sequence[int]) -> Tensor:
        if needs_backward:  # cut first: else the gradient of the whole would be laid out anew, by a copy
            q, k, v = qkv.split_with_sizes(heads, dim=2)
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        else:
            q, k, v = qkv.transpose(1, 2).split_with_sizes(heads, dim=1)
        return bound(q, k, v)[0].transpose(1, 2).flatten(2)

    attend.packed = packed  # type: ignore[attr-defined]
    return for_any_size(attend)


# q, k, v as torch's attention has them, (batch, heads, seq, head_dim); the mask as bool, or None; and is_causal.
Masked = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]
_flags = RLock()


def by_flags(implementation: SDPBackend, request: Request) -> Masked:
    """scaled_dot_product_attention with every other implementation's flag off.

    The flags are the process's: two threads that set them at once would each put back what the other had set.  So
    they are set one thread at a time; a kernel's launch is all that waits.
    """
    dropout, scale, grouped = request.dropout, request.softmax_scale, request.shape.group_size > 1

    def masked(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, is_causal: bool) -> Tensor:
        with nullcontext() if torch.compiler.is_compiling() else _flags, sdpa_kernel(implementation):
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=allowed, dropout_p=dropout, is_causal=is_causal, scale=scale, enable_gqa=grouped
            )

    return masked


def by_masked_operator(name: str, request: Request, **options: object) -> Masked:
    """The implementation's own operator, given the mask as zeros and minus infinities in q's dtype: no flag is set."""
    operator, dropout = getattr(torch.ops.aten, name).default, request.dropout
    options |= {"scale": request.softmax_scale}

    def masked(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, is_causal: bool) -> Tensor:
        added = None if allowed is None else q.new_zeros(()).where(allowed, float("-inf"))
        return operator(q, k, v, dropout_p=dropout, is_causal=is_causal, attn_mask=added, **options)[0]

    return masked


def by_mask(masked: Masked, request: Request, machine: Machine) -> AttentionFn:
    """is_causal where torch's meaning is ours, a dense mask elsewhere."""
    shape, mask, plain = request.shape, request.mask, is_plain(request)

    def under(allowed: Tensor | None, is_causal: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return masked(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), allowed, is_causal).transpose(1, 2)

    def ragged(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
        return under(dense_ragged(mask, q, k, lengths), False, q, k, v)

    def any_size(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        allowed = None if plain else dense_like(mask, q, k)
        return under(allowed, plain and mask.band == CAUSAL, q, k, v)

    if mask.ragged:
        return for_any_size(ragged)
    if plain:
        return for_any_size(any_size)
    allowed = dense(mask, shape, machine.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return under(allowed, False, q, k, v)

    if mask.uniform:
        attend.any_size = any_size  # type: ignore[attr-defined]
    return attend
