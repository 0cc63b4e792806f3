"""PyTorch's own composite attention, the one SDPA falls to when nothing fused will do."""

from dataclasses import dataclass

from torch.nn.attention import SDPBackend

from attn_lab.backends._one_sdpa import one_sdpa
from attn_lab.core.backend import Attend, Backend
from attn_lab.core.limits import Limits
from attn_lab.core.machine import Machine
from attn_lab.core.request import Request


@dataclass(frozen=True)
class SdpaMath(Backend):
    limits = {"cuda": Limits(dropout=True, empty_rows=True), "cpu": Limits(dropout=True, empty_rows=True)}
    kernels = {"forward": "(?i)softmax|_attention_math", "backward": "(?i)softmax"}

    def prepare(self, request: Request, machine: Machine) -> Attend:
        return one_sdpa(SDPBackend.MATH, request, machine)
