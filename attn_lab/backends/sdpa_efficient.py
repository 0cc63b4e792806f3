"""The memory-efficient (CUTLASS) kernels that PyTorch carries, born in xFormers."""

from dataclasses import dataclass

from torch.nn.attention import SDPBackend

from attn_lab.backends._one_sdpa import by_flags, by_mask
from attn_lab.core.backend import AttentionFn, Backend
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.machine import Machine
from attn_lab.core.request import Request


@dataclass(frozen=True)
class SdpaEfficient(Backend):
    capabilities = {"cuda": Capabilities(dropout=True, grouped_heads=False, head_dim_multiple=8, capability=(5, 0))}
    kernels = {"forward": "fmha_cutlassF", "backward": "fmha_cutlassB"}

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        return by_mask(by_flags(SDPBackend.EFFICIENT_ATTENTION, request), request, machine)
