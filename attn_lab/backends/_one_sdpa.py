"""torch's scaled_dot_product_attention held to one of its implementations: it raises rather than take another."""

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attn_lab.core.backend import Attend, Request
from attn_lab.core.machine import Machine
from attn_lab.core.mask import CAUSAL, FULL, dense


def one_sdpa(implementation: SDPBackend, request: Request, machine: Machine) -> Attend:
    """The fused flags where torch's meaning is ours, a dense mask elsewhere (is_causal is aligned top-left)."""
    shape = request.shape
    is_causal = request.mask.band == CAUSAL and shape.offset == 0
    allowed = None
    if request.mask.band != FULL and not is_causal:
        allowed = dense(request.mask, shape, machine.device)
    grouped, scale, dropout = shape.group_size > 1, request.softmax_scale, request.dropout

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        with sdpa_kernel(implementation):
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=allowed, dropout_p=dropout, is_causal=is_causal, scale=scale, enable_gqa=grouped
            )
        return out.transpose(1, 2)

    return attend
