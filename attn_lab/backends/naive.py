"""The study's "PyTorch": scores materialised, softmax in the input's own dtype."""

from dataclasses import dataclass

from attn_lab.backends._materialised import materialised
from attn_lab.core.backend import Attend, Backend, Limits, Request
from attn_lab.core.machine import Machine


@dataclass(frozen=True)
class Naive(Backend):
    limits = {"cuda": Limits(dropout=True), "cpu": Limits(dropout=True)}
    kernels = {"forward": "(?i)softmax", "backward": "(?i)softmax"}

    def prepare(self, request: Request, machine: Machine) -> Attend:
        return materialised(request, machine, softmax_dtype=None)
