"""The study's "PyTorch": scores materialised, softmax in the input's own dtype."""

from dataclasses import dataclass

from attn_lab.backends._materialised import materialised, materialised_split
from attn_lab.core.backend import AttentionFn, Backend, Split
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.machine import Machine
from attn_lab.core.mask import KINDS
from attn_lab.core.request import Request
from attn_lab.core.shape import DTYPES

SCORES_IN_MEMORY = Capabilities(dtypes=DTYPES, masks=KINDS, dropout=True)


@dataclass(frozen=True)
class Naive(Backend):
    capabilities = {"cuda": SCORES_IN_MEMORY, "cpu": SCORES_IN_MEMORY}
    split_capabilities = {"cuda": Capabilities(), "cpu": Capabilities()}
    kernels = {"forward": "(?i)softmax", "backward": "(?i)softmax"}
    overflows = ("float16",)  # scores are written in the input's dtype: past 65504 they are inf

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        return materialised(request, machine, softmax_dtype=None)

    def split(self, request: Request, machine: Machine) -> Split:
        return materialised_split(request, machine, softmax_dtype=None)
