"""The FlashAttention-2 kernels that PyTorch carries; on the CPU, its own flash-style kernel."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from attn_lab.backends._one_sdpa import by_flags, by_mask, by_masked_operator, by_operator, is_plain
from attn_lab.core.backend import AttentionFn, Backend, Split
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.machine import Machine
from attn_lab.core.mask import CAUSAL, KINDS, boundaries, dense
from attn_lab.core.request import Request
from attn_lab.core.shape import DTYPES

FLASH = "_scaled_dot_product_flash_attention"
VARLEN = (2, 13)  # the first torch whose varlen_attn knows windows and grouped heads
MOST = 2**31 - 1  # past it torch 2.11 has gradients that are not finite, and says nothing


@dataclass(frozen=True)
class SdpaFlash(Backend):
    capabilities = {
        "cuda": Capabilities(
            dtypes=("float16", "bfloat16"),
            masks=("full", "causal", "documents"),
            square_masks=("causal",),
            dropout=True,
            head_dim=(1, 256),
            backward_elements=MOST,
            max_batch_size=65535,  # one axis of a CUDA grid
            capability=(8, 0),
        ),
        "cpu": Capabilities(dtypes=DTYPES, masks=KINDS),
    }
    split_capabilities = {
        "cuda": Capabilities(
            dtypes=("float16", "bfloat16"),
            masks=("full", "causal"),
            square_masks=("causal",),
            head_dim=(8, 256),
            head_dim_multiple=8,
            backward_elements=MOST,
            max_batch_size=65535,  # one axis of a CUDA grid
            capability=(8, 0),
        ),
        "cpu": Capabilities(),
    }
    kernels = {
        "forward": "pytorch_flash::flash_fwd|_flash_attention_for_cpu$",
        "backward": "pytorch_flash::flash_bwd|_flash_attention_for_cpu_backward$",
    }

    def declared_reasons(self, request: Request, machine: Machine) -> list[str]:
        reasons = super().declared_reasons(request, machine)
        if request.mask.ends is None or machine.device == "cpu":
            return reasons
        release = machine.packages.get("torch", str(torch.__version__))
        if tuple(map(int, release.split(".")[:2])) < VARLEN:
            reasons.append(
                f"documents: need torch {'.'.join(map(str, VARLEN))}, for its varlen_attn; this is {release}"
            )
        if request.shape.head_dim % 8:
            reasons.append(f"documents: head_dim a multiple of 8; asked {request.shape.head_dim}")
        if request.dropout:
            reasons.append(f"documents: no dropout; asked {request.dropout}")
        return reasons

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        if request.mask.ends is not None and machine.device == "cuda":
            return _documents(request, machine)
        if machine.device == "cpu":
            if is_plain(request):
                return by_operator(f"{FLASH}_for_cpu", request)
            return by_mask(by_masked_operator(f"{FLASH}_for_cpu", request), request, machine)
        if is_plain(request) and request.shape.head_dim % 8 == 0:  # else torch pads q, k and v before
            return by_operator(FLASH, request)
        return by_mask(by_flags(SDPBackend.FLASH_ATTENTION, request), request, machine)

    def split(self, request: Request, machine: Machine) -> Split:
        return _on_cuda(request) if machine.device == "cuda" else _on_cpu(request)


def _documents(request: Request, machine: Machine) -> AttentionFn:
    """By the same kernels with boundaries, as torch.nn.attention.varlen has them."""
    from torch.nn.attention.varlen import varlen_attn

    mask, scale, grouped = request.mask, request.softmax_scale, request.shape.group_size > 1
    assert mask.ends is not None
    bounds, longest = bounds_k, longest_k = boundaries(mask.ends, machine.device)
    if mask.ends_kv is not None:
        bounds_k, longest_k = boundaries(mask.ends_kv, machine.device)
    left, right = (-1 if side is None else side for side in mask.inside)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q.squeeze(0), k.squeeze(0), v.squeeze(0)  # (total, heads, head_dim)
        out = varlen_attn(
            q, k, v, bounds, bounds_k, longest, longest_k, scale=scale, window_size=(left, right), enable_gqa=grouped
        )
        assert isinstance(out, Tensor)  # its log-sum-exp comes only on request
        return out.unsqueeze(0)

    return attend


def _on_cuda(request: Request) -> Split:
    is_causal, scale = request.mask.band == CAUSAL, request.softmax_scale
    ops = torch.ops.aten

    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        out, lse, *_ = ops._scaled_dot_product_flash_attention.default(q, k, v, 0.0, is_causal, scale=scale)
        return out.transpose(1, 2), lse

    def backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        dout, q, k, v, out = (tensor.transpose(1, 2) for tensor in (dout, q, k, v, out))
        random = lse.new_empty((), dtype=torch.int64)  # a place for the generator's state, read only with dropout
        dq, dk, dv = ops._scaled_dot_product_flash_attention_backward.default(
            dout, q, k, v, out, lse, None, None, q.shape[2], k.shape[2], 0.0, is_causal, random, random,
            scale=scale,
        )  # fmt: skip
        return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)

    return Split(forward, backward, any_size=True)


def _on_cpu(request: Request) -> Split:
    is_causal, scale = is_plain(request) and request.mask.band == CAUSAL, request.softmax_scale
    added = None
    if not is_plain(request):
        forbidden = ~dense(request.mask, request.shape, "cpu")
        added = torch.zeros(forbidden.shape, dtype=getattr(torch, request.shape.dtype))
        added.masked_fill_(forbidden, float("-inf"))
    ops = torch.ops.aten

    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        out, lse = ops._scaled_dot_product_flash_attention_for_cpu.default(
            q, k, v, 0.0, is_causal, attn_mask=added, scale=scale
        )
        return out.transpose(1, 2), lse

    def backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        dout, q, k, v, out = (tensor.transpose(1, 2) for tensor in (dout, q, k, v, out))
        dq, dk, dv = ops._scaled_dot_product_flash_attention_for_cpu_backward.default(
            dout, q, k, v, out, lse, 0.0, is_causal, attn_mask=added, scale=scale
        )
        return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)

    return Split(forward, backward, any_size=added is None)
