"""PyTorch's own composite attention, the one SDPA falls to when nothing fused will do."""

from dataclasses import dataclass

from attn_lab.backends._one_sdpa import by_mask, by_masked_operator
from attn_lab.core.backend import AttentionFn, Backend
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.machine import Machine
from attn_lab.core.mask import KINDS
from attn_lab.core.request import Request
from attn_lab.core.shape import DTYPES

COMPOSITE = Capabilities(dtypes=DTYPES, masks=KINDS, dropout=True, empty_rows=True)


@dataclass(frozen=True)
class SdpaMath(Backend):
    capabilities = {"cuda": COMPOSITE, "cpu": COMPOSITE}
    kernels = {"forward": "(?i)softmax|_attention_math", "backward": "(?i)softmax"}

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        grouped = request.shape.group_size > 1
        masked = by_masked_operator("_scaled_dot_product_attention_math", request, enable_gqa=grouped)
        return by_mask(masked, request, machine)
