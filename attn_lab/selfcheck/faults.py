"""Known faults: sound backends, each with one thing wrong that has been wrong in a published kernel."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from attn_lab.backends.naive import Naive
from attn_lab.backends.sdpa_flash import SdpaFlash
from attn_lab.core.backend import AttentionFn, Backend
from attn_lab.core.machine import Machine
from attn_lab.core.mask import Mask
from attn_lab.core.request import Request
from attn_lab.masks.sliding_window import SlidingWindow


@dataclass(frozen=True)
class FaultyBackend(Backend):
    """A sound backend, until a subclass asks it another question (`misread`) or spoils its answer (`answer`)."""

    sound: ClassVar[Backend] = SdpaFlash()
    capabilities = SdpaFlash.capabilities
    kernels = SdpaFlash.kernels

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        attend = self.sound.prepare(self.misread(request), machine)
        return lambda q, k, v: self.answer(attend, q, k, v)

    def misread(self, request: Request) -> Request:
        return request

    def answer(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v)


class FaultyNaive(FaultyBackend):
    """For masks that a flash kernel does not serve everywhere."""

    sound = Naive()
    capabilities = Naive.capabilities
    kernels = Naive.kernels


@dataclass(frozen=True)
class Inverted(Mask):
    """Forbids what `mask` allows; a query still sees itself, for NaN not to give it away."""

    mask: Mask

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ~self.mask(batch, head, query, key) | (query == key)


class InvertedMask(FaultyNaive):
    def misread(self, request: Request) -> Request:
        return replace(request, mask=Inverted(request.mask))


class WiderWindow(FaultyNaive):
    """Off by one: a window of 16 sees 17 positions."""

    def misread(self, request: Request) -> Request:
        assert isinstance(request.mask, SlidingWindow)
        return replace(request, mask=SlidingWindow(request.mask.window + 1))


@dataclass(frozen=True)
class WrongScale(FaultyBackend):
    factor: float = 1.01

    def answer(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q * self.factor, k, v)


class WrongHeads(FaultyBackend):
    """Deals key/value heads out in turn (0 1 0 1) where each serves a group of neighbours (0 0 1 1)."""

    def misread(self, request: Request) -> Request:
        return replace(request, shape=replace(request.shape, num_kv_heads=request.shape.num_heads))

    def answer(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        group = q.shape[2] // k.shape[2]
        return attend(q, k.repeat(1, 1, group, 1), v.repeat(1, 1, group, 1))


class DroppedGradient(FaultyBackend):
    """The gradient of one key among all is zero."""

    def answer(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        middle = k.shape[1] // 2
        before, one, behind = k.split([middle, 1, k.shape[1] - middle - 1], 1)
        return attend(q, torch.cat([before, one.detach(), behind], 1), v)


@dataclass(frozen=True)
class WrongAtOneHeadSize(FaultyBackend):
    """The gradient of q is 2 % too large, at one head size alone."""

    head_dim: int = 40

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        sound = self.sound.prepare(request, machine)
        if request.shape.head_dim != self.head_dim:
            return sound
        return lambda q, k, v: sound(_LargerGradient.apply(q), k, v)


class _LargerGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor) -> Tensor:
        return q.view_as(q)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 1.02


class NanAtTheEnd(FaultyBackend):
    """The last row was never written."""

    def answer(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = attend(q, k, v).clone()
        out[:, -1] = float("nan")
        return out


class ReadsBeyond(FaultyBackend):
    """Its last tile is a row too tall: what lies behind v has no weight, and is read all the same."""

    def answer(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = attend(q, k, v)
        row = v.shape[2:]
        beyond = v.detach().as_strided((row.numel(),), (1,), v.storage_offset() + v.numel()).view(row)
        return out + 0 * beyond.repeat_interleave(q.shape[2] // v.shape[2], 0)


class Overwrites(FaultyBackend):
    """Clips q where it lies, out of autograd's sight; from its second call on nothing changes any more."""

    def answer(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q.data.clamp_(-2, 2)
        return attend(q, k, v)


class Wavers(FaultyBackend):
    """Every other answer is 2 % too large, as where threads race for an accumulator."""

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        attend, calls = super().prepare(request, machine), [0]

        def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            calls[0] += 1
            return attend(q, k, v) * (1.02 if calls[0] % 2 else 1)

        return call


class Impostor(FaultyBackend):
    """Says that it is naive attention, and has a flash kernel answer."""

    kernels = Naive.kernels


class Recompiles(FaultyBackend):
    """Compiled anew at every call: a number it is compiled for is never the same."""

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        attend, calls = super().prepare(request, machine), [1]
        scaled = torch.compile(lambda q, turn: q * (turn / turn), backend="eager", dynamic=False)

        def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            calls[0] += 1
            return attend(scaled(q, calls[0]), k, v)

        return call


class OutOfMemory(FaultyBackend):
    """Wants 4 EiB for its workspace."""

    def answer(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q + torch.empty(2**60, device=q.device)[0], k, v)


class Raises(FaultyBackend):
    def answer(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise ValueError("no such kernel\nsecond line")
