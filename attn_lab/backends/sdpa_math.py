"""PyTorch's own composite attention, the one SDPA falls to when nothing fused will do."""

from dataclasses import dataclass

from attn_lab.backends._one_sdpa import by_mask, by_masked_operator
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
        grouped = request.shape.group_size > 1
        masked = by_masked_operator("_scaled_dot_product_attention_math", request, enable_gqa=grouped)
        return by_mask(masked, request, machine)
