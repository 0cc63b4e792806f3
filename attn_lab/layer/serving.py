"""Who answers which question: each shape is prepared once, by the first backend preferred that can serve it."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from operator import index
from typing import Any

import torch
from torch import Tensor

from attn_lab.core.backend import Attend, Backend, Taken, take
from attn_lab.core.errors import BadRequest, Refused
from attn_lab.core.machine import Machine, detect
from attn_lab.core.mask import CAUSAL, Mask
from attn_lab.core.request import PASSES, Request
from attn_lab.core.shape import Shape
from attn_lab.layer.overflow import finite_only
from attn_lab.layer.verification import verified_reasons
from attn_lab.masks.full import Full

MOST = 256  # questions remembered: decoding asks a new one each token
FEW = 4  # of those that came with a mask of their own, which is a large tensor or never comes again


@dataclass(frozen=True)
class Choice:
    """A question, who took it, and why those preferred to it could not; of one that was chosen for it, why that one."""

    request: Request
    backend: Backend
    passed_over: Mapping[str, Sequence[str]]
    why: str = ""

    def __str__(self) -> str:
        told = f"{self.request.shape} {type(self.request.mask).__name__}: {_called(self.backend)}"
        told += f" ({self.why})" * bool(self.why)
        return "; ".join([told, *(f"{who} refuses: {'; '.join(why)}" for who, why in self.passed_over.items())])


class Serving:
    """serving(q, k, v) → a prepared function for tensors like these; Refused with all reasons of all if none can.

    What is prepared is kept by shape, dtype, device, need of gradients and mask, and is neither copied nor pickled.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        mask: Mask,
        *,
        dropout: float = 0.0,
        scale: float | None = None,
        verify: bool = True,
    ) -> None:
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise BadRequest(f"dropout: expected at least 0 and less than 1; got {dropout!r}")
        self.backends, self.mask, self.dropout, self.scale = tuple(backends), mask, dropout, scale
        self.verify = verify
        self._drops = dropout > 0  # a constant to torch.compile, where a float need be none
        self.choices: dict[tuple[Any, ...], Choice] = {}
        self._prepared: dict[tuple[Any, ...], Attend] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"choices": {}, "_prepared": {}}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, dropping: bool = False, mask: Mask | None = None) -> Attend:
        """q, k, v: (batch, seq, heads, head_dim).  `dropping`: with dropout; `mask`: another than the own."""
        needs_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        dropping = dropping and self._drops
        needs_grad = needs_grad or dropping  # a checkpoint comes without, then with: the same must drop the same
        if torch.compiler.is_compiling():
            if mask is not None:
                raise BadRequest("a mask that comes with the call: not inside torch.compile's graph; use Serving.under")
            sizes = tuple(map(index, q.shape)), tuple(map(index, k.shape))  # index makes constants of them
            constant = (*sizes, q.dtype, q.device, needs_grad, dropping, None)
            self._ensure(*constant)
            return self._prepared[constant]
        key = (q.shape, k.shape, q.dtype, q.device, needs_grad, dropping, mask)
        attend = self._prepared.get(key)
        if attend is None:
            if q.dtype != k.dtype or q.dtype != v.dtype or q.device != k.device or q.device != v.device:
                got = ", ".join(f"{each.dtype} on {each.device}" for each in (q, k, v))
                raise BadRequest(f"q, k, v: expected one dtype and one device; got {got}")
            self._ensure(*key)
            attend = self._prepared[key]
        return attend

    @torch.compiler.disable(reason="a mask that comes with the call is prepared outside torch.compile's graph")
    def under(self, mask: Callable[[], Mask], q: Tensor, k: Tensor, v: Tensor, dropping: bool = False) -> Tensor:
        """Attention under a mask known only now.  torch.compile breaks its graph here (fullgraph=True says so)."""
        return self(q, k, v, dropping, mask())(q, k, v)

    def keep(
        self, attend: Attend, size: tuple[int, int, int, int], kv_heads: int, dtype: torch.dtype,
        device: torch.device, needs_grad: bool,
    ) -> None:  # fmt: skip
        """Serve self-attention of q of this size, without dropout, with an already prepared function."""
        key = (size, (*size[:2], kv_heads, size[3]), dtype, device, needs_grad, False, None)
        self._prepared[key] = attend

    @torch.compiler.assume_constant_result
    def _ensure(self, *key: Any) -> None:
        """Have `key` prepared.  To torch.compile a constant: it runs as it is while tracing, and is not traced."""
        if key in self._prepared:
            return
        (batch, seq_len, heads, head_dim), (_, seq_len_kv, kv_heads, _), dtype, device, needs_grad, dropping, mask = key
        shape = Shape(
            batch_size=batch, seq_len=seq_len, seq_len_kv=seq_len_kv, num_heads=heads, num_kv_heads=kv_heads,
            head_dim=head_dim, emb_dim=heads * head_dim, dtype=str(dtype).removeprefix("torch."),
        )  # fmt: skip
        asked = self.mask if mask is None else mask
        if seq_len == 1 and asked.band == CAUSAL:
            asked = Full()  # a lone query is the last, and sees every key: more kernels serve that
        request = Request(
            shape=shape, mask=asked, passes=PASSES if needs_grad else ("forward",),
            dropout=self.dropout if dropping else 0.0, scale=self.scale,
        )  # fmt: skip
        if torch.compiler.is_exporting():
            # Tracing modes are a thread's own: in another, tensors made here are real ones.
            with ThreadPoolExecutor(1) as outside:
                choice, attend = outside.submit(self._choose, request, device).result()
        else:
            choice, attend = self._choose(request, device)
        alike = [other for other in self._prepared if (other[-1] is None) == (mask is None)]
        for oldest in alike[: len(alike) - (MOST if mask is None else FEW) + 1]:
            del self._prepared[oldest]
            self.choices.pop(oldest, None)
        self.choices[key], self._prepared[key] = choice, attend

    def _choose(self, request: Request, device: torch.device) -> tuple[Choice, Attend]:
        """The first backend that can, and its function."""
        machine = detect(device.type)
        passed_over: dict[str, Sequence[str]] = {}
        # Masks and tables made now may be saved for a backward later, and belong on the inputs' own GPU.
        here = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with torch.inference_mode(False), torch.no_grad(), here:
            for backend in self.backends:
                reasons, taken = _asked(backend, request, machine, self.verify)
                if taken is not None:
                    passed_over |= taken.passed_over
                    return Choice(request, taken.by, passed_over, taken.why), taken.attend
                passed_over[_called(backend)] = reasons
        if len(self.backends) == 1:
            raise Refused(next(iter(passed_over)), reasons)
        raise Refused("every backend preferred", [f"{who}: {'; '.join(why)}" for who, why in passed_over.items()])


def _called(backend: Backend) -> str:
    return backend.label or type(backend).__name__


def _asked(backend: Backend, request: Request, machine: Machine, verify: bool) -> tuple[Sequence[str], Taken | None]:
    """Reasons, or the question taken."""
    reasons = backend.refusals(request, machine)
    if reasons:
        return reasons, None
    try:
        taken = take(backend, request, machine)
    except Refused as late:  # what only its import could tell
        return late.reasons, None
    if verify and (reasons := verified_reasons(taken.by, request, machine)):
        return reasons, None
    return [], replace(taken, attend=finite_only(taken.attend, taken.by, request))
