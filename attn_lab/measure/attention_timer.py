"""How long attention takes inside a step: marks before and after each call of it, forward and backward."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attn_lab.core.backend import AttentionFn


class AttentionTimer:
    """Wraps the attention of a layer or a model; costs nothing but while a share is measured.

    Marks lie in the order of execution, alternately where attention begins and where it ends: in a backward, from the
    moment that its output's gradient is there until those of q, k and v are.  A forward that is computed again for a
    checkpoint counts again.
    """

    def __init__(self, device: str):
        self._cuda = device == "cuda"
        self._marks: list[Any] | None = None

    def around(self, attend: AttentionFn) -> AttentionFn:
        def marked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if self._marks is None:
                return attend(q, k, v)
            (out,) = _Mark.apply(self, attend(*_Mark.apply(self, q, k, v)))
            return out

        if in_one_piece := getattr(attend, "packed", None):  # what is measured goes the way of what is used
            marked.packed = partial(self._whole, in_one_piece)  # type: ignore[attr-defined]
        return marked

    def _whole(self, attend: Callable[[Tensor, Sequence[int]], Tensor], qkv: Tensor, heads: Sequence[int]) -> Tensor:
        if self._marks is None:
            return attend(qkv, heads)
        (begun,) = _Mark.apply(self, qkv)
        (out,) = _Mark.apply(self, attend(begun, heads))
        return out

    def share(self, step: Callable[[], object]) -> float:
        """The share of the time of one `step` that is attention's."""
        self._marks = []
        try:
            self.mark()
            step()
            self.mark()
        finally:
            (first, *inside, last), self._marks = self._marks, None
        if self._cuda:
            torch.cuda.synchronize()
        attention = sum(self._between(*pair) for pair in zip(inside[::2], inside[1::2], strict=True))
        return attention / self._between(first, last)

    def mark(self) -> None:
        assert self._marks is not None
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def _between(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) if self._cuda else end - start


class _Mark(torch.autograd.Function):
    """Tensors as they are; a mark where they pass, and where their gradients do."""

    @staticmethod
    def forward(ctx: Any, spans: AttentionTimer, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.spans = spans
        spans.mark()
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.spans.mark()
        return None, *gradients
