"""A small case of a request's kind, its output and gradients held against attention in float64."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attn_lab.core.backend import Backend, select
from attn_lab.core.machine import Machine
from attn_lab.core.mask import CAUSAL, FULL, Band, Mask, dense_ragged
from attn_lab.core.oracle import oracle
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.core.tolerance import allowed_errors, largest
from attn_lab.masks.causal import Causal
from attn_lab.masks.full import Full
from attn_lab.masks.prefix_lm import PrefixLM
from attn_lab.nn.documents import Documents
from attn_lab.nn.tensor_mask import TensorMask as TensorMask

SEQ_LEN, FEWER = 193, 67  # past one tile of 128 and no multiple of anything; fewer queries than keys
GROUP = 8  # the most query heads a key/value head that a small case has


def small_case_reason(backend: Backend, request: Request, machine: Machine) -> str:
    """Why a small case of this request's kind is answered wrongly, or ""."""
    try:
        errors = small_case_errors(backend, small_request(request), machine)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001  of another's kernel: a promise to run that does not hold
        cause = " ".join(str(error).split())
        return f"a small case of its kind does not run: {type(error).__name__}: {cause}"
    return stated(errors)


def stated(errors: Mapping[str, tuple[float, float]]) -> str:
    """What is wrong in these errors, or ""."""
    wrong = [f"{name}: max error {error:.3g}; allowed {allowed:.3g}"
             for name, (error, allowed) in errors.items() if not error <= allowed]  # fmt: skip
    return "; ".join(wrong)


def small_request(request: Request) -> Request:
    """A request of the same kind of 2 × 193 tokens, without dropout.

    Its mask is as near to the request's as such a length allows: windows shrink, documents become four.
    """
    shape, mask = request.shape, request.mask
    group = min(shape.group_size, GROUP)
    lengths = (SEQ_LEN, SEQ_LEN) if shape.offset == 0 else (FEWER, SEQ_LEN) if shape.offset > 0 else (SEQ_LEN, FEWER)
    small = Shape(
        batch_size=1 if mask.ends is not None else 2, seq_len=lengths[0], seq_len_kv=lengths[1], num_heads=2 * group,
        num_kv_heads=2, head_dim=shape.head_dim, emb_dim=2 * group * shape.head_dim, dtype=shape.dtype,
    )  # fmt: skip
    return replace(request, shape=small, mask=_small_mask(mask, *lengths), dropout=0.0, scale=None)


def _small_mask(mask: Mask, seq_len: int, seq_len_kv: int) -> Mask:
    if mask.ragged:
        return mask
    if seq_len != seq_len_kv and mask.ends is not None:
        ends, ends_kv = (tuple(total * part // 8 for part in (2, 3, 5, 8)) for total in (seq_len, seq_len_kv))
        return Documents(ends=ends, inside=mask.inside, ends_kv=ends_kv)
    if mask.ends is not None:
        inside = mask.inside if mask.inside[0] is None else (min(mask.inside[0], 20), mask.inside[1])
        return Documents(ends=(50, 51, 130, SEQ_LEN), inside=inside)
    if mask.band is None:
        return PrefixLM(prefix=40)
    left, right = mask.band
    if mask.band in (FULL, CAUSAL):
        return Full() if mask.band == FULL else Causal()
    return NarrowBand(*(None if side is None else min(side, 40) for side in (left, right)))


def small_case_errors(
    backend: Backend, request: Request, machine: Machine, seed: int = 0, *, packed: bool = False
) -> dict[str, tuple[float, float]]:
    """Largest error and error allowed, by name ("out", "dq", "dk", "dv"), against attention in float64.

    An output or gradient that is not finite has an infinite error.  Raises what the backend raises.

    Args:
        packed: q, k and v are views of one tensor (batch, seq, heads of all three, head_dim), as a projection leaves
            them; a backend that takes such a tensor whole is given it whole.
    """
    shape, dtype = request.shape, getattr(torch, request.shape.dtype)
    generator = torch.Generator(machine.device).manual_seed(seed)
    heads = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)

    def drawn(seq: int, heads: int) -> Tensor:
        size = (shape.batch_size, seq, heads, shape.head_dim)
        return torch.randn(size, generator=generator, dtype=dtype, device=machine.device)

    if packed:
        qkv = drawn(shape.seq_len, sum(heads))
        q, k, v = qkv.split_with_sizes(heads, dim=2)
    else:
        q, k, v = (drawn(seq, n) for seq, n in zip((shape.seq_len, *2 * [shape.seq_len_kv]), heads, strict=True))
    cotangent = drawn(shape.seq_len, shape.num_heads)
    attend = select(backend, request, machine).attend
    every = (torch.arange(size, device=machine.device) for size in (shape.batch_size, shape.num_heads))
    mask, lengths = request.mask, list[Tensor]()
    if mask.ragged:  # all keys of the first batch element, two thirds of the other's
        shorter = max(shape.seq_len, 2 * shape.seq_len_kv // 3)
        lengths = [torch.tensor([shape.seq_len_kv, shorter], dtype=torch.int32, device=machine.device)]
        mask = TensorMask(dense_ragged(mask, q, k, *lengths))
    reference = oracle(mask, shape, *every)

    def answer(function: Callable[..., Tensor], to: torch.dtype, *given: Tensor) -> dict[str, Tensor]:
        leaves = [each.detach().to(to).requires_grad_(request.needs_backward) for each in given]
        with torch.enable_grad() if request.needs_backward else torch.no_grad():
            out = function(*leaves).view(cotangent.shape)
        found = {"out": out.detach()}
        if request.needs_backward:
            grads = torch.autograd.grad(out, leaves, cotangent.to(to))
            grads = grads[0].split_with_sizes(heads, dim=2) if len(grads) == 1 else grads
            found |= dict(zip(("dq", "dk", "dv"), grads, strict=True))
        return found

    if packed and hasattr(attend, "packed"):
        got = answer(lambda qkv: attend.packed(qkv, heads), dtype, qkv)
    else:
        got = answer(lambda *leaves: attend(*leaves, *lengths), dtype, q, k, v)
    exact, plain = answer(reference, torch.float64, q, k, v), answer(reference, dtype, q, k, v)
    errors = {}
    for name, allowed in allowed_errors(exact, plain, dtype).items():
        error = largest(got[name].double() - exact[name])
        errors[name] = (error if math.isfinite(error) else math.inf, allowed)
    return errors


@dataclass(frozen=True)
class NarrowBand(Mask):
    """A band: query - left <= key <= query + right; None is unlimited."""

    left: int | None
    right: int | None

    @property
    def band(self) -> Band:  # type: ignore[override]
        return (self.left, self.right)

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        allowed = (query == query) & (key == key)
        if self.left is not None:
            allowed = allowed & (key >= query - self.left)
        return allowed if self.right is None else allowed & (key <= query + self.right)
