"""Scores materialised, softmax in float32: what careful hand-written models do."""

from dataclasses import dataclass

import torch

from attn_lab.backends._materialised import materialised
from attn_lab.core.backend import Attend, Backend, Limits, Request
from attn_lab.core.machine import Machine


@dataclass(frozen=True)
class NaiveFP32(Backend):
    limits = {"cuda": Limits(dropout=True), "cpu": Limits(dropout=True)}
    kernels = {"forward": "(?i)softmax", "backward": "(?i)softmax"}

    def prepare(self, request: Request, machine: Machine) -> Attend:
        return materialised(request, machine, softmax_dtype=torch.float32)
