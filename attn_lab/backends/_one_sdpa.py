"""torch's scaled_dot_product_attention held to one of its implementations: it raises rather than take another."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attn_lab.core.backend import Attend, Request
from attn_lab.core.machine import Machine
from attn_lab.core.mask import CAUSAL, FULL, dense


def is_plain(request: Request) -> bool:
    """Whether the fused flags alone say this mask: is_causal is aligned top-left."""
    return request.mask.band == FULL or (request.mask.band == CAUSAL and request.shape.offset == 0)


def by_operator(name: str, *options: object, scale: float) -> Attend:
    """The implementation's own operator: it cannot be another's, and neither chooses nor sets flags at each call.

    torch's own binding of it takes microseconds less than the one in torch.ops, which alone torch.compile traces.
    """
    bound, traced = getattr(torch, name), getattr(torch.ops.aten, name).default

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        operator = traced if torch.compiler.is_compiling() else bound
        out = operator(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), *options, scale=scale)[0]
        return out.transpose(1, 2)

    return attend


def one_sdpa(implementation: SDPBackend, request: Request, machine: Machine) -> Attend:
    """The fused flags where torch's meaning is ours, a dense mask elsewhere."""
    shape = request.shape
    is_causal = is_plain(request) and request.mask.band == CAUSAL
    allowed = None if is_plain(request) else dense(request.mask, shape, machine.device)
    grouped, scale, dropout = shape.group_size > 1, request.softmax_scale, request.dropout

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        with sdpa_kernel(implementation):
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=allowed, dropout_p=dropout, is_causal=is_causal, scale=scale, enable_gqa=grouped
            )
        return out.transpose(1, 2)

    return attend
