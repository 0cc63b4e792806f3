"""A case made ready to run: the tensors, the step, and the two answers to compare; what every probe drives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from attn_lab.core.backend import AttentionFn, Backend
from attn_lab.core.machine import Machine
from attn_lab.core.request import TRAIN_STEP, Request
from attn_lab.measure.attention_timer import AttentionTimer
from attn_lab.records.artifacts import File, scratch
from attn_lab.records.record import Measurement

Answer = Mapping[str, Tensor]


@dataclass(kw_only=True)
class PreparedCase:
    """A staged case.  Gradients are asked of autograd and returned, never accumulated: there is nothing to clear.

    But in a training step, which leaves them in the leaves for the optimizer; they are cleared before the next one,
    off the clock.

    leaves     tensors whose gradients a step computes, by name: all it needs and no more
    forward    one forward pass
    cotangent  what the backward pass starts from; the shape of the output
    flops      operations per pass, from the exact pair count
    parameters what a training step changes; nothing, for a subject that has none
    recomputes a backward computes its forward again, from checkpoints
    spans      attention's own time inside a step, where the subject has more in it
    cut        the checked slices of a whole answer (out, and d + name of each leaf)
    reference  the same slices from the oracle, computed in the dtype asked
    found      what the probes before have measured, by name
    module     what `forward` calls, where that is an nn.Module, for probes to tell its parts apart
    scratch    a folder for files that a probe yields; made with the first file

    Nobody may write to what a step is given: its bits are summed up here, before anyone could.
    """

    request: Request
    machine: Machine
    backend: Backend
    leaves: Mapping[str, Tensor]
    forward: Callable[[], Tensor]
    cotangent: Tensor
    flops: Mapping[str, int]
    cut: Callable[[Answer], Answer]
    reference: Callable[[torch.dtype], Answer]
    parameters: Sequence[nn.Parameter] = ()
    recomputes: bool = False
    spans: AttentionTimer | None = None
    prepare_seconds: float = 0.0
    found: dict[str, Measurement] = field(default_factory=dict)
    module: nn.Module | None = None
    scratch: Path = field(default_factory=lambda: scratch("alone"))
    _sums: Mapping[str, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._sums = {name: _sums(tensor) for name, tensor in self.given.items()}

    @property
    def given(self) -> Mapping[str, Tensor]:
        """Everything a step is given: leaves and, if there is a backward, the cotangent."""
        return {**self.leaves, **({"cotangent": self.cotangent} if self.request.needs_backward else {})}

    @property
    def overwritten(self) -> list[str]:
        """Names of what a step was given and what has other bits by now."""
        return [name for name, tensor in self.given.items() if not torch.equal(_sums(tensor), self._sums[name])]

    @property
    def passes(self) -> tuple[str, ...]:
        return self.request.passes

    @property
    def inputs_bytes(self) -> int:
        """Bytes of what a step is given, without what lies around it."""
        return sum(map(_size, self.given.values()))

    @property
    def surrounding_bytes(self) -> int:
        """Bytes of what lies around it, which are there for the accuracy probe alone."""
        tensors = (*self.leaves.values(), self.cotangent)
        return sum(each.untyped_storage().nbytes() - _size(each) for each in tensors)

    def backward(self, out: Tensor) -> tuple[Tensor, ...]:
        """Gradients of all leaves, in their order, from a fresh graph, which is consumed."""
        return torch.autograd.grad(out, tuple(self.leaves.values()), self.cotangent)

    def forward_backward(self) -> tuple[Tensor, ...]:
        """One true step: a fresh graph, forward and backward."""
        return self.backward(self.forward())

    @property
    def trains(self) -> bool:
        return TRAIN_STEP in self.passes

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW with so short a step that the last pass timed still has the weights that were verified.

        The large eps is for float16, in which the squares of small gradients are zero.
        """
        on_gpu = self.machine.device == "cuda"
        return torch.optim.AdamW(self.parameters, lr=1e-6, eps=1e-4, fused=True, capturable=on_gpu)

    def train_step(self) -> None:
        """One step of training: forward, backward, and the parameters are others."""
        self.learn(self.forward())

    def learn(self, out: Tensor) -> None:
        """The rest of a training step after its forward."""
        torch.autograd.backward(out, self.cotangent)
        self.optimizer.step()

    def clear_gradients(self) -> None:
        for leaf in self.leaves.values():
            leaf.grad = None

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of what the optimizer remembers from step to step; 0 before the first."""
        states = self.optimizer.state.values() if self.trains else ()
        tensors = [each for state in states for each in state.values() if isinstance(each, Tensor)]
        return sum(each.numel() * each.element_size() for each in tensors)

    @property
    def largest_pass(self) -> str:
        """The pass with most in it; of two alike, the one asked first."""
        order = ("forward", "backward", "forward_backward", TRAIN_STEP)
        return max(self.passes, key=order.index)

    def min_bytes(self, name: str) -> int:
        """What a pass must move at least: every leaf and the output, for a backward all gradients and the cotangent."""
        leaves, out = (sum(map(_size, several)) for several in (self.leaves.values(), [self.cotangent]))
        return leaves + out if name == "forward" else 2 * leaves + 2 * out

    def stages(self, name: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
        """What comes before a pass, and the pass itself, which is given what the first returned."""
        if name == "backward":
            return self.forward, self.backward
        if name == TRAIN_STEP:
            return self.clear_gradients, lambda _: self.train_step()
        if name == "forward":
            return lambda: None, lambda _: self.forward()
        return lambda: None, lambda _: self.forward_backward()

    def answer(self) -> Answer:
        """The backend's whole output and, if the request has a backward, gradients."""
        out = self.forward()
        if not self.request.needs_backward:
            return {"out": out}
        grads = zip(self.leaves, self.backward(out), strict=True)
        return {"out": out.detach(), **{f"d{name}": grad for name, grad in grads}}

    def synchronize(self) -> None:
        if self.machine.device == "cuda":
            torch.cuda.synchronize()


class Subject(Protocol):
    """What is stepped: attention alone, a layer, a model.  It makes the tensors and owns its FLOPs."""

    def check(self, request: Request) -> None:
        """Raise BadRequest for a request that makes no sense of this subject, with any backend."""

    def stage(
        self,
        request: Request,
        backend: Backend,
        attend: AttentionFn,
        machine: Machine,
        *,
        seed: int,
        checked_slices: int,
    ) -> PreparedCase: ...


class Probe(Protocol):
    """Measures a prepared case: drives its own runs, yields what it found, and raises Incorrect to end the case."""

    clocks: bool = False  # publishes a speed: may run only after the probe `accuracy`
    hooks: bool = False  # hangs itself into what runs: may do so only after every clock that does not

    def measure(self, prepared: PreparedCase) -> Iterator[Measurement | File]: ...


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _sums(tensor: Tensor) -> Tensor:
    """Its bits, in words as wide as fit, summed over all axes but each one in turn: short, and moved by any change.

    On the host, for nothing of it to count as the device's memory.
    """
    width = tensor.shape[-1] * tensor.element_size()
    word = next(dtype for dtype in (torch.int64, torch.int32, torch.int16) if width % dtype.itemsize == 0)
    words = tensor.detach().view(word)
    axes = range(words.dim())
    return torch.cat([words.sum([a for a in axes if a != axis], dtype=torch.int64).flatten() for axis in axes]).cpu()
