"""The study's "PyTorch": scores materialised, softmax in the input's own dtype."""

from dataclasses import dataclass

from attn_lab.backends._materialised import materialised, materialised_split
from attn_lab.core.backend import Attend, Backend, Split
from attn_lab.core.limits import Limits
from attn_lab.core.machine import Machine
from attn_lab.core.mask import KINDS
from attn_lab.core.request import Request
from attn_lab.core.shape import DTYPES

SCORES_IN_MEMORY = Limits(dtypes=DTYPES, masks=KINDS, dropout=True)


@dataclass(frozen=True)
class Naive(Backend):
    limits = {"cuda": SCORES_IN_MEMORY, "cpu": SCORES_IN_MEMORY}
    split_limits = {"cuda": Limits(), "cpu": Limits()}
    kernels = {"forward": "(?i)softmax", "backward": "(?i)softmax"}
    overflows = ("float16",)  # scores are written in the input's dtype: past 65504 they are inf

    def prepare(self, request: Request, machine: Machine) -> Attend:
        return materialised(request, machine, softmax_dtype=None)

    def split(self, request: Request, machine: Machine) -> Split:
        return materialised_split(request, machine, softmax_dtype=None)
