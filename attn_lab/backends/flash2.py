"""FlashAttention v2 (Dao 2023), from the package flash-attn: the study's other half."""

from dataclasses import dataclass

from torch import Tensor

from attn_lab.core.backend import Attend, Backend, Limits, Request
from attn_lab.core.machine import Machine
from attn_lab.core.mask import CAUSAL


@dataclass(frozen=True)
class Flash2(Backend):
    limits = {
        "cuda": Limits(
            dtypes=("float16", "bfloat16"),
            masks=("full", "causal", "band"),
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
        from flash_attn import flash_attn_func

        left, right = request.mask.band  # type: ignore[misc]  # limits admit no mask without one
        is_causal = request.mask.band == CAUSAL
        window = (-1, -1) if is_causal else (-1 if left is None else left, -1 if right is None else right)
        scale, dropout = request.softmax_scale, request.dropout

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return flash_attn_func(
                q, k, v, dropout_p=dropout, softmax_scale=scale, causal=is_causal, window_size=window
            )

        return attend
