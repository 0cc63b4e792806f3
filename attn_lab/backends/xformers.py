"""xFormers' memory_efficient_attention, held to its CUTLASS operator (whose windows have no backward)."""

from dataclasses import dataclass

from torch import Tensor

from attn_lab.core.backend import Attend, Backend
from attn_lab.core.errors import Refused
from attn_lab.core.limits import Limits
from attn_lab.core.machine import Machine
from attn_lab.core.mask import kind
from attn_lab.core.request import Request


@dataclass(frozen=True)
class XFormers(Backend):
    limits = {
        "cuda": Limits(
            masks=("full", "causal"),
            grouped_heads=False,
            head_dim_multiple=8,
            capability=(7, 0),
            capability_below=(9, 1),
            packages=("xformers",),
            pip="xformers",
        )
    }
    kernels = {"forward": "fmha_cutlassF", "backward": "fmha_cutlassB"}

    def prepare(self, request: Request, machine: Machine) -> Attend:
        from xformers.ops import fmha, memory_efficient_attention
        from xformers.ops.fmha import attn_bias
        from xformers.ops.fmha.common import _built_with_cuda

        if not _built_with_cuda:
            raise Refused("xformers", ["its C++ extension does not load here (python -m xformers.info says why)"])

        bias = attn_bias.LowerTriangularFromBottomRightMask() if kind(request.mask) == "causal" else None
        operators = (fmha.cutlass.FwOp, fmha.cutlass.BwOp)
        scale = request.softmax_scale

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale, op=operators)

        return attend
