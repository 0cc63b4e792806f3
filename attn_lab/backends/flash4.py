"""FlashAttention 4: the CuTe DSL kernels of the package flash-attn-4, for Hopper and Blackwell."""

from dataclasses import dataclass

from torch import Tensor

from attn_lab.core.backend import Attend, Backend, Limits, Request, Split
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
    split_limits = {
        "cuda": Limits(
            dtypes=("float16", "bfloat16"),
            masks=("full", "causal", "band"),
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

    def split(self, request: Request, machine: Machine) -> Split:
        from flash_attn.cute.interface import _flash_attn_bwd, _flash_attn_fwd

        is_causal = request.mask.band == CAUSAL
        left, right = (None, None) if is_causal or request.mask.band == FULL else request.mask.band  # type: ignore[misc]
        options = {"softmax_scale": request.softmax_scale, "causal": is_causal, "window_size_left": left,
                   "window_size_right": right}  # fmt: skip

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            out, lse, *_ = _flash_attn_fwd(q, k, v, **options, return_lse=True)
            return out, lse

        def backward(
            dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            return _flash_attn_bwd(q, k, v, out, dout, lse, **options)

        return Split(forward, backward)
