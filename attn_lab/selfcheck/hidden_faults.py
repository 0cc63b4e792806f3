"""Known faults: backends whose answers are right, and part of whose work no single clock sees."""

import time
from typing import Any

import torch
from torch import Tensor

from attn_lab.core.backend import AttentionFn
from attn_lab.selfcheck.faults import FaultyBackend

SECONDS = 0.1
CYCLES = 40_000_000  # of a GPU, which is less disturbed: 20 ms


class CostlyToFree(FaultyBackend):
    """What it keeps for a backward takes long to let go of: after the clock, unless a whole step is timed."""

    def answer(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _Owing.apply(attend(q, k, v))


class BesideItself(FaultyBackend):
    """Has a second stream do part of its work, and does not wait for it."""

    def answer(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(CYCLES)
        return attend(q, k, v)


class _Owing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        ctx.debt = _Debt(out.is_cuda)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Debt:
    def __init__(self, cuda: bool):
        self._cuda = cuda

    def __del__(self) -> None:
        if self._cuda:
            torch.cuda._sleep(CYCLES)
        else:
            time.sleep(SECONDS)
