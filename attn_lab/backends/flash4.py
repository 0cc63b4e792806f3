"""FlashAttention 4: the CuTe DSL kernels of the package flash-attn-4, for Hopper and Blackwell."""

from dataclasses import dataclass

from torch import Tensor

from attn_lab.core.backend import Attend, Backend, Limits, Request
from attn_lab.core.machine import Machine
from attn_lab.core.mask import CAUSAL, FULL


@dataclass(frozen=True)
class Flash4(Backend):
    limits = {
        "cuda": Limits(
            dtypes=("float16", "bfloat16"),
            masks=("full", "causal", "band"),
            empty_rows=True,
            head_dim=(8, 128),
            head_dim_multiple=8,
            capability=(9, 0),
            packages=("flash-attn-4",),
            pip="flash-attn-4[cu13]",
        )
    }
    kernels = {"forward": "flash_attncute.*fwd", "backward": "flash_attncute.*bwd"}

    def prepare(self, request: Request, machine: Machine) -> Attend:
        from flash_attn.cute import flash_attn_func

        is_causal = request.mask.band == CAUSAL
        window = (None, None) if is_causal or request.mask.band == FULL else request.mask.band
        scale = request.softmax_scale

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = flash_attn_func(q, k, v, softmax_scale=scale, causal=is_causal, window_size=window)
            return out[0] if isinstance(out, tuple) else out  # (out, lse) in some releases

        return attend
