"""Scores materialised, softmax in float32: what careful hand-written models do."""

from dataclasses import dataclass

import torch

from attn_lab.backends._materialised import materialised, materialised_split
from attn_lab.core.backend import AttentionFn, Backend, Split
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.machine import Machine
from attn_lab.core.mask import KINDS
from attn_lab.core.request import Request

SCORES_IN_MEMORY = Capabilities(masks=KINDS, dropout=True)  # no float64, which its softmax would round


@dataclass(frozen=True)
class NaiveFP32(Backend):
    capabilities = {"cuda": SCORES_IN_MEMORY, "cpu": SCORES_IN_MEMORY}
    split_capabilities = {"cuda": Capabilities(), "cpu": Capabilities()}
    kernels = {"forward": "(?i)softmax", "backward": "(?i)softmax"}
    overflows = ("float16",)  # scores are written in the input's dtype: past 65504 they are inf

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        return materialised(request, machine, softmax_dtype=torch.float32)

    def split(self, request: Request, machine: Machine) -> Split:
        return materialised_split(request, machine, softmax_dtype=torch.float32)
