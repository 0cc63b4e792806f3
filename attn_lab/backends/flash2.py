"""FlashAttention v2 (Dao 2023), from the package flash-attn: the study's other half."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attn_lab.core.backend import AttentionFn, Backend, Split, for_any_size
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.importing import importing
from attn_lab.core.machine import Machine
from attn_lab.core.mask import CAUSAL, boundaries
from attn_lab.core.request import Request


@dataclass(frozen=True)
class Flash2(Backend):
    capabilities = {
        "cuda": Capabilities(
            dtypes=("float16", "bfloat16"),
            masks=("full", "causal", "band", "documents", "ragged"),
            empty_rows=True,
            dropout=True,
            head_dim=(1, 256),
            max_batch_size=65535,  # one axis of a CUDA grid
            capability=(8, 0),
            packages=("flash-attn",),
            pip="flash-attn>=2.7",
            build_isolation=False,
        )
    }
    split_capabilities = {
        "cuda": Capabilities(
            dtypes=("float16", "bfloat16"),
            masks=("full", "causal", "band"),
            head_dim=(8, 256),
            head_dim_multiple=8,  # else the package pads q, k and v
            max_batch_size=65535,  # one axis of a CUDA grid
            capability=(8, 0),
            packages=("flash-attn",),
            pip="flash-attn>=2.7",
            build_isolation=False,
        )
    }
    kernels = {"forward": r"(?<!\w)flash::flash_fwd", "backward": r"(?<!\w)flash::flash_bwd"}

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        with importing("flash2", "flash-attn"):
            from flash_attn import flash_attn_func, flash_attn_varlen_func

        ends, is_ragged = request.mask.ends, request.mask.ragged
        band = request.mask.band if ends is None and not is_ragged else request.mask.inside
        left, right = band  # type: ignore[misc]  # limits admit no mask without one
        is_causal = band == CAUSAL
        options = {
            "dropout_p": request.dropout,
            "softmax_scale": request.softmax_scale,
            "causal": is_causal,
            "window_size": (-1, -1) if is_causal else (-1 if left is None else left, -1 if right is None else right),
        }

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return flash_attn_func(q, k, v, **options)

        if is_ragged:
            from flash_attn import flash_attn_with_kvcache  # forward only, as such a mask is

            options.pop("dropout_p")

            def attend_ragged(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
                return flash_attn_with_kvcache(q, k, v, cache_seqlens=lengths, **options)

            return for_any_size(attend_ragged)
        if ends is None:
            return for_any_size(attend)
        bounds, longest = bounds_k, longest_k = boundaries(ends, machine.device)
        if request.mask.ends_kv is not None:
            bounds_k, longest_k = boundaries(request.mask.ends_kv, machine.device)

        def attend_documents(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (tensor.squeeze(0) for tensor in (q, k, v))  # (total, heads, head_dim)
            return flash_attn_varlen_func(q, k, v, bounds, bounds_k, longest, longest_k, **options).unsqueeze(0)

        return attend_documents

    def split(self, request: Request, machine: Machine) -> Split:
        with importing("flash2", "flash-attn"):
            from flash_attn import flash_attn_interface

        left, right = request.mask.band  # type: ignore[misc]  # limits admit no mask without one
        is_causal = request.mask.band == CAUSAL
        window = (-1, -1) if is_causal else (-1 if left is None else left, -1 if right is None else right)
        options = (0.0, request.softmax_scale, is_causal, *window, 0.0, None)  # no dropout, no softcap, no alibi
        ops = torch.ops.flash_attn if hasattr(torch.ops.flash_attn, "_flash_attn_forward") else flash_attn_interface

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            out, lse, *_ = ops._flash_attn_forward(q, k, v, *options, False)
            return out, lse

        def backward_into(*tensors: Tensor) -> None:
            ops._flash_attn_backward(*tensors, *options, False)

        def backward(
            dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            dq, dk, dv = (torch.empty_like(tensor) for tensor in (q, k, v))
            backward_into(dout, q, k, v, out, lse, dq, dk, dv)
            return dq, dk, dv

        return Split(forward, backward, backward_into, any_size=True)
