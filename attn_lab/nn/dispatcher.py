"""Who answers which question: each shape is prepared once, by the first backend preferred that can serve it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from operator import index
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from attn_lab.core.backend import AttentionFn, Backend, Selection, for_any_size, select
from attn_lab.core.errors import BadRequest, Unsupported
from attn_lab.core.machine import Machine, detect
from attn_lab.core.mask import Mask
from attn_lab.core.request import PASSES, Request
from attn_lab.core.shape import Shape
from attn_lab.masks.full import Full
from attn_lab.nn.overflow import finite_only
from attn_lab.nn.tracing import asked_sizes, by_sizes_alone, is_fake, of_nothing, with_real_tensors
from attn_lab.nn.verification import verified_reasons

MOST = 256  # questions remembered
FEW = 4  # of those that came with a mask of their own, which is a large tensor or never comes again
ANY_SIZE = "any size"  # in the place of a mask: what is traced with a size left open
Key = tuple[Any, ...]  # sizes of q and of k, dtype, device, needs gradients, drops, mask


@dataclass(frozen=True)
class Choice:
    """A request, the backend selected for it, and why backends preferred to it are unsupported."""

    request: Request
    backend: Backend
    passed_over: Mapping[str, Sequence[str]]
    why: str = ""

    def __str__(self) -> str:
        text = f"{self.request.shape} {type(self.request.mask).__name__}: {_called(self.backend)}"
        text += f" ({self.why})" * bool(self.why)
        return "; ".join([text, *(f"{name} refuses: {'; '.join(why)}" for name, why in self.passed_over.items())])


class Dispatcher:
    """dispatcher(q, k, v) → a prepared function for tensors like these; Unsupported with all reasons if there is none.

    What is prepared is kept by shape, dtype, device, need of gradients and mask, and is neither copied nor pickled.
    Threads may share one: a look-up takes no lock, and two that ask the same at once both prepare it.
    """

    def __init__(
        self, backends: Sequence[Backend], mask: Mask, *, dropout: float = 0.0, scale: float | None = None,
        verify: bool = True,
    ) -> None:  # fmt: skip
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise BadRequest(f"dropout: expected at least 0 and less than 1; got {dropout!r}")
        self.backends, self.mask, self.dropout, self.scale = tuple(backends), mask, dropout, scale
        self.verify = verify
        self._drops = dropout > 0  # a constant to torch.compile, where a float need be none
        self.choices: dict[Key, Choice] = {}
        self._prepared: dict[Key, AttentionFn | None] = {}
        self._lock = Lock()  # of both; never held while something is prepared, which may wait for other locks

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "choices": {}, "_prepared": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, dropping: bool = False, mask: Mask | None = None
    ) -> AttentionFn:
        """q, k, v: (batch, seq, heads, head_dim).  `dropping`: with dropout; `mask`: another than the own."""
        needs_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        dropping = dropping and self._drops
        needs_grad = needs_grad or dropping  # a checkpoint comes without, then with: the same must drop the same
        if torch.compiler.is_compiling():
            return self._traced(q, k, needs_grad, dropping, mask)
        key = (q.shape, k.shape, q.dtype, q.device, needs_grad, dropping, mask)
        attend = self._prepared.get(key)
        if attend is None or (type(q) is not Tensor and is_fake(q)):
            attend = self._found(key, q, k, v)
        return attend

    def _traced(self, q: Tensor, k: Tensor, needs_grad: bool, dropping: bool, mask: Mask | None) -> AttentionFn:
        """As `__call__`, where torch.compile or torch.export traces: a size may be open, if the function allows it."""
        if mask is not None:
            raise BadRequest("a mask that comes with the call: not inside torch.compile's graph; use Dispatcher.under")
        fields = asked_sizes(q, k)
        if fields is not None:
            key = (*fields, q.dtype, q.device, needs_grad, dropping, ANY_SIZE)
            if self._ensure_any_size(*key):  # only then is `_prepared` looked at: torch.compile keeps what it first saw
                return self._prepared[key]  # type: ignore[return-value]
        sizes = tuple(map(index, q.shape)), tuple(map(index, k.shape))  # index makes constants of them
        constant = (*sizes, q.dtype, q.device, needs_grad, dropping, None)
        self._ensure(*constant)
        return self._prepared[constant]  # type: ignore[return-value]  # None stands for no function of any size alone

    @torch.compiler.disable(reason="a mask that comes with the call is prepared outside torch.compile's graph")
    def under(self, mask: Callable[[], Mask], q: Tensor, k: Tensor, v: Tensor, dropping: bool = False) -> Tensor:
        """Attention under a mask known only now.  torch.compile breaks its graph here (fullgraph=True says so)."""
        return self(q, k, v, dropping, mask())(q, k, v)

    @torch.compiler.disable(reason="a length for each sequence is served outside torch.compile's graph")
    def ragged(
        self, mask: Mask, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, dropping: bool = False
    ) -> Tensor:  # fmt: skip
        """Attention to `lengths` (batch,) int32 of the keys of each batch element, whose queries are the last there."""
        return self(q, k, v, dropping, mask)(q, k, v, lengths)

    def keep(
        self, attend: AttentionFn, size: tuple[int, int, int, int], kv_heads: int, dtype: torch.dtype,
        device: torch.device, needs_grad: bool,
    ) -> None:  # fmt: skip
        """Serve self-attention of q of this size, without dropout, with an already prepared function."""
        key = (size, (*size[:2], kv_heads, size[3]), dtype, device, needs_grad, False, None)
        with self._lock:
            self._prepared[key] = attend

    def _found(self, key: Key, q: Tensor, k: Tensor, v: Tensor) -> AttentionFn:
        """What serves a question that is not known as it stands."""
        if q.dtype != k.dtype or q.dtype != v.dtype or q.device != k.device or q.device != v.device:
            got = ", ".join(f"{each.dtype} on {each.device}" for each in (q, k, v))
            raise BadRequest(f"q, k, v: expected one dtype and one device; got {got}")
        if q.is_meta:
            return by_sizes_alone
        if is_fake(q):
            attend = self._ensure(*key)
            return getattr(attend, "any_size", attend)  # which mixes no real tensor with fake ones
        mask = key[-1]
        batch, keys, *others = k.shape
        lone = q.shape[1] == 1 and mask is None and self.mask.band is not None
        if keys and (lone or (mask is not None and mask.ragged)):
            shared = (key[0], (batch, _at_least(keys), *others), *key[2:])
            attend = self._prepared.get(shared)
            if attend is None:
                attend = self._ensure(*shared)
            if hasattr(attend, "any_size"):
                return attend  # one for all lengths up to a power of two: a token more is no new question
        return self._ensure(*key)

    @torch.compiler.assume_constant_result
    def _ensure_any_size(self, *key: Any) -> bool:
        """Whether a function for any size is prepared, once that was tried: a constant to torch.compile."""
        if key not in self._prepared:
            choice, attend = self._answer((*key[:-1], None))
            self._remember(key, choice, getattr(attend, "any_size", None))
        return self._prepared[key] is not None

    @torch.compiler.assume_constant_result
    def _ensure(self, *key: Any) -> AttentionFn:
        """Have `key` prepared.  To torch.compile a constant: it runs as it is while tracing, and is not traced."""
        attend = self._prepared.get(key)
        if attend is None:
            choice, attend = self._answer(key)
            self._remember(key, choice, attend)
        return None if torch.compiler.is_compiling() else attend  # type: ignore[return-value]  # no constant of torch's

    def _answer(self, key: Key) -> tuple[Choice | None, AttentionFn]:
        (batch, seq_len, heads, head_dim), (_, keys, kv_heads, _), dtype, device, needs_grad, dropping, mask = key
        if not (batch and seq_len and keys):
            return None, of_nothing
        shape = Shape(
            batch_size=batch, seq_len=seq_len, seq_len_kv=keys, num_heads=heads, num_kv_heads=kv_heads,
            head_dim=head_dim, emb_dim=heads * head_dim, dtype=str(dtype).removeprefix("torch."),
        )  # fmt: skip
        fields = self.mask if mask is None else mask
        if seq_len == 1 and fields.band is not None:
            # A lone query is the last, and sees every key of its window: more kernels serve that.
            window = None if fields.band[0] is None else fields.band[0] + 1
            if window is not None and window < keys:
                choice, attend = self._answer((key[0], (batch, window, kv_heads, head_dim), *key[2:]))
                return choice, _of_last(window, attend)
            fields = Full()
        request = Request(
            shape=shape, mask=fields, passes=PASSES if needs_grad else ("forward",),
            dropout=self.dropout if dropping else 0.0, scale=self.scale,
        )  # fmt: skip
        return with_real_tensors(lambda: self._choose(request, device))

    def _remember(self, key: Key, choice: Choice | None, attend: AttentionFn | None) -> None:
        of_its_own = _comes_once(key)
        with self._lock:
            alike = [other for other in self._prepared if _comes_once(other) == of_its_own]
            for oldest in alike[: len(alike) - (FEW if of_its_own else MOST) + 1]:
                self._prepared.pop(oldest, None)
                self.choices.pop(oldest, None)
            if choice is not None:
                self.choices[key] = choice
            self._prepared[key] = attend

    def _choose(self, request: Request, device: torch.device) -> tuple[Choice, AttentionFn]:
        """The first backend that can, and its function."""
        machine = detect(str(device))
        passed_over: dict[str, Sequence[str]] = {}
        # Masks and tables made now may be saved for a backward later, and belong on the inputs' own GPU.
        here = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with torch.inference_mode(False), torch.no_grad(), here:
            for backend in self.backends:
                reasons, taken = _reasons_and_selection(backend, request, machine, self.verify)
                if taken is not None:
                    passed_over |= taken.passed_over
                    return Choice(request, taken.by, passed_over, taken.why), taken.attend
                passed_over[_called(backend)] = reasons
        if len(self.backends) == 1:
            raise Unsupported(next(iter(passed_over)), reasons)
        raise Unsupported("every backend preferred", [f"{name}: {'; '.join(why)}" for name, why in passed_over.items()])


def _of_last(window: int, attend: AttentionFn) -> AttentionFn:
    """`attend` over the last keys alone."""

    def windowed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k[:, -window:], v[:, -window:])

    return for_any_size(windowed) if hasattr(attend, "any_size") else windowed


def _comes_once(key: Key) -> bool:
    """Whether it came with a mask of its own, whose function serves nothing else."""
    mask = key[-1]
    return mask is not None and mask is not ANY_SIZE and not mask.ragged


def _at_least(keys: int) -> int:
    """The next power of two."""
    return 1 << (keys - 1).bit_length()


def _called(backend: Backend) -> str:
    return backend.label or type(backend).__name__


def _reasons_and_selection(
    backend: Backend, request: Request, machine: Machine, verify: bool
) -> tuple[Sequence[str], Selection | None]:
    """Reasons, or the question taken."""
    reasons = backend.unsupported_reasons(request, machine)
    if reasons:
        return reasons, None
    try:
        taken = select(backend, request, machine)
    except Unsupported as late:  # what only its import could tell
        return late.reasons, None
    if verify and (reasons := verified_reasons(taken.by, request, machine)):
        return reasons, None
    return [], replace(taken, attend=finite_only(taken.attend, taken.by, request))
