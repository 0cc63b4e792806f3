"""PyTorch's own composite attention, the one SDPA falls to when nothing fused will do."""

from dataclasses import dataclass

from torch.nn.attention import SDPBackend

from attn_lab.backends._one_sdpa import one_sdpa
from attn_lab.core.backend import Attend, Backend
from attn_lab.core.limits import Limits
from attn_lab.core.machine import Machine
from attn_lab.core.mask import KINDS
from attn_lab.core.request import Request
from attn_lab.core.shape import DTYPES

COMPOSITE = Limits(dtypes=DTYPES, masks=KINDS, dropout=True, empty_rows=True)


@dataclass(frozen=True)
class SdpaMath(Backend):
    limits = {"cuda": COMPOSITE, "cpu": COMPOSITE}
    kernels = {"forward": "(?i)softmax|_attention_math", "backward": "(?i)softmax"}

    def prepare(self, request: Request, machine: Machine) -> Attend:
        return one_sdpa(SDPBackend.MATH, request, machine)
