"""cuDNN's fused attention through PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from attn_lab.backends._one_sdpa import by_flags, by_mask, by_operator, is_plain
from attn_lab.core.backend import AttentionFn, Backend, Split
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.machine import Machine
from attn_lab.core.mask import CAUSAL
from attn_lab.core.request import Request

CUDNN = "_scaled_dot_product_cudnn_attention"
MOST = 2**31 - 1  # past it torch 2.11 has wrong gradients of q and k, and says nothing


@dataclass(frozen=True)
class SdpaCudnn(Backend):
    capabilities = {
        "cuda": Capabilities(
            dtypes=("float16", "bfloat16"),
            head_dim=(8, 128),
            head_dim_multiple=8,
            min_kv_len=2,
            backward_elements=MOST,
            max_batch_size=65535,
            dropout=True,
            capability=(8, 0),
        )
    }
    split_capabilities = {
        "cuda": Capabilities(
            dtypes=("float16", "bfloat16"),
            masks=("full", "causal"),
            square_masks=("causal",),
            head_dim=(8, 128),
            head_dim_multiple=8,
            min_kv_len=2,
            backward_elements=MOST,
            max_batch_size=65535,
            capability=(8, 0),
        )
    }
    kernels = {"forward": "cudnn.*sdpa.*fprop", "backward": "cudnn.*sdpa.*bprop"}

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        if is_plain(request):
            attend = by_operator(CUDNN, request, attn_bias=None, compute_log_sumexp=request.needs_backward)
        else:
            attend = by_mask(by_flags(SDPBackend.CUDNN_ATTENTION, request), request, machine)
        return gradient_laid_as_output(attend) if request.needs_backward else attend

    def split(self, request: Request, machine: Machine) -> Split:
        is_causal, scale = request.mask.band == CAUSAL, request.softmax_scale
        ops = torch.ops.aten

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            out, lse, *_ = ops._scaled_dot_product_cudnn_attention.default(
                q, k, v, None, True, 0.0, is_causal, scale=scale
            )
            return out.transpose(1, 2), lse.view(q.shape[:3])

        def backward(
            dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            # torch keeps cuDNN's graphs by the layout of q, k and v, and reads out, dout and lse as laid out when it
            # built one: they come as its own forward would have laid them, or would be silently misread.
            out, dout = _laid_as(q, out), _laid_as(q, dout)
            dout, q, k, v, out = (tensor.transpose(1, 2) for tensor in (dout, q, k, v, out))
            random = lse.new_empty((), dtype=torch.int64)  # a place for the generator's state, read only with dropout
            dq, dk, dv = ops._scaled_dot_product_cudnn_attention_backward.default(
                dout, q, k, v, out, lse.contiguous().unsqueeze(-1), random, random, None, None, None, q.shape[2],
                k.shape[2], 0.0, is_causal, scale=scale,
            )  # fmt: skip
            return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)

        return Split(forward, backward, any_size=True)


def gradient_laid_as_output(attend: AttentionFn) -> AttentionFn:
    """`attend`, with the gradient of its output always laid out as that, for the reason that `split` has.

    A view of all elements in a row does it: autograd takes a gradient back through that without a copy only where its
    elements lie in a row as well (or all at one distance other than 1, which torch itself lays out for cuDNN).  A hook
    would cost each call as much, and be none that torch.compile traces.
    """

    def laid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = attend(q, k, v)
        if out.is_contiguous():
            return out.view(-1).view(out.shape)
        strides = out.stride()
        order = sorted(range(4), key=lambda axis: -strides[axis])
        in_memory = out.permute(order)
        return in_memory.reshape(-1).view(in_memory.shape).permute([order.index(axis) for axis in range(4)])

    def packed(qkv: Tensor, heads: Sequence[int]) -> Tensor:
        out = attend(*qkv.split_with_sizes(heads, dim=2))
        batch, seq, _, _ = out.shape
        return out.reshape(-1).view(batch, seq, -1)

    laid.packed = packed  # type: ignore[attr-defined]  # the layer wants heads side by side: a view less
    if any_size := getattr(attend, "any_size", None):
        laid.any_size = laid if any_size is attend else gradient_laid_as_output(any_size)  # type: ignore[attr-defined]
    return laid


def _laid_as(q: Tensor, tensor: Tensor) -> Tensor:
    """`tensor` with its axes in memory in the order of q's, without gaps; itself where it is so already."""
    laid = torch.empty_like(q, device="meta").stride()
    return tensor if tensor.stride() == laid else tensor.new_empty_strided(q.shape, laid).copy_(tensor)
