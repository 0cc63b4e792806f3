"""FlashAttention v2 (Dao 2023), from the package flash-attn: the study's other half."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attn_lab.core.backend import Attend, Backend, Limits, Request
from attn_lab.core.machine import Machine
from attn_lab.core.mask import CAUSAL


@dataclass(frozen=True)
class Flash2(Backend):
    limits = {
        "cuda": Limits(
            dtypes=("float16", "bfloat16"),
            masks=("full", "causal", "band", "documents"),
            empty_rows=True,
            dropout=True,
            head_dim=(1, 256),
            capability=(8, 0),
            packages=("flash-attn",),
            pip="flash-attn>=2.7",
        )
    }
    kernels = {"forward": r"(?<!\w)flash::flash_fwd", "backward": r"(?<!\w)flash::flash_bwd"}

    def prepare(self, request: Request, machine: Machine) -> Attend:
        from flash_attn import flash_attn_func, flash_attn_varlen_func

        ends = request.mask.ends
        band = request.mask.band if ends is None else request.mask.inside
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

        if ends is None:
            return attend
        bounds = torch.tensor((0, *ends), dtype=torch.int32, device=machine.device)
        longest = int(bounds.diff().max())

        def attend_documents(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (tensor.squeeze(0) for tensor in (q, k, v))  # (total, heads, head_dim)
            return flash_attn_varlen_func(q, k, v, bounds, bounds, longest, longest, **options).unsqueeze(0)

        return attend_documents
