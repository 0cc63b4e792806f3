"""A race on the spot: backends against each other at one question, by turns, the wrong ones left out."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attn_lab.core.backend import Backend, select
from attn_lab.core.errors import Unsupported
from attn_lab.core.machine import Machine
from attn_lab.core.mask import dense, dense_ragged, query_positions
from attn_lab.core.request import Request

WARM, LEAST, MOST = 2, 5, 25  # calls of each: untimed, timed at least, at most
SECONDS = 0.5  # after which no further round begins
CUSHION_CYCLES = 500_000  # the GPU waits a quarter of a millisecond, for the host to queue the call before it starts
CHECKED = 64  # of the last queries, of one head group, held against plain attention


def race(
    able: Mapping[str, Backend], request: Request, machine: Machine
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Median ms by name, interleaved on the same inputs; and why others have none."""
    fallen: dict[str, list[str]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    leaves, cotangent = _inputs(request, machine)
    more = [_lengths(request, leaves[0])] if request.mask.ragged else []
    for name, backend in able.items():
        try:
            attend = select(backend, request, machine).attend
            out = attend(*leaves, *more)
            if off := _off(out.detach(), leaves, request, machine):
                fallen[name] = [off]
                continue
            calls[name] = _step(attend, leaves, more, cotangent if request.needs_backward else None)
            for _ in range(WARM):
                calls[name]()
            _synchronize(machine)
        except Unsupported as late:
            fallen[name] = late.reasons
        except torch.OutOfMemoryError:
            fallen[name] = ["out of memory when measured on the spot"]
            calls.pop(name, None)
    times: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for round in range(MOST):
        if round >= LEAST and time.perf_counter() - begin > SECONDS:
            break
        for name, call in calls.items():
            times[name].append(_timed(call, machine))
    return {name: statistics.median(each) for name, each in times.items()}, fallen


def _inputs(request: Request, machine: Machine) -> tuple[list[Tensor], Tensor]:
    """q, k, v and what a backward starts from, of the sizes asked."""
    shape, generator = request.shape, torch.Generator(machine.device).manual_seed(0)

    def drawn(seq: int, heads: int) -> Tensor:
        size = (shape.batch_size, seq, heads, shape.head_dim)
        return torch.randn(size, generator=generator, dtype=getattr(torch, shape.dtype), device=machine.device)

    q = drawn(shape.seq_len, shape.num_heads)
    k, v = (drawn(shape.seq_len_kv, shape.num_kv_heads) for _ in "kv")
    return [each.requires_grad_(request.needs_backward) for each in (q, k, v)], drawn(shape.seq_len, shape.num_heads)


def _lengths(request: Request, q: Tensor) -> Tensor:
    """Every key there is, for each batch element of a ragged mask."""
    return torch.full((len(q),), request.shape.seq_len_kv, dtype=torch.int32, device=q.device)


def _step(
    attend: Callable[..., Tensor], leaves: Sequence[Tensor], more: Sequence[Tensor], cotangent: Tensor | None
) -> Callable[[], Any]:
    if cotangent is None:
        return lambda: attend(*leaves, *more)
    return lambda: torch.autograd.grad(attend(*leaves), tuple(leaves), cotangent)


def _timed(call: Callable[[], Any], machine: Machine) -> float:
    if machine.device != "cuda":
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(CUSHION_CYCLES)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def _off(out: Tensor, leaves: Sequence[Tensor], request: Request, machine: Machine) -> str:
    """Why this is no answer, or "": its last queries of the first head group against plain attention in float32.

    Much less than the lab's gate asks (no gradients, a few rows), but a kernel that is broken here shows.
    """
    if request.dropout:
        return ""
    shape = request.shape
    q, k, v = (each.detach()[:1].transpose(1, 2).float() for each in leaves)
    rows = min(CHECKED, shape.seq_len)
    one = torch.zeros(1, dtype=torch.long, device=out.device)
    heads = torch.arange(shape.group_size, device=out.device)
    if request.mask.ragged:
        allowed = dense_ragged(request.mask, leaves[0], leaves[1], _lengths(request, leaves[0]))[:1, :, -rows:]
    else:
        allowed = dense(
            request.mask, shape, out.device, batch=one, head=heads, query=query_positions(shape, out.device)[-rows:]
        )
    scores = q[:, : shape.group_size, -rows:] @ k[:, :1].mT * request.softmax_scale
    weights = scores.masked_fill(~allowed, -math.inf).softmax(-1).nan_to_num(0)
    exact = weights @ v[:, :1]
    error = (out[:1, -rows:, : shape.group_size].transpose(1, 2).float() - exact).abs().max().item()
    bound = max(16 * torch.finfo(out.dtype).eps, 2e-3) * max(exact.abs().max().item(), 1)
    return "" if error <= bound else f"its answer is off by {error:.3g}; allowed {bound:.3g}"


def _synchronize(machine: Machine) -> None:
    if machine.device == "cuda":
        torch.cuda.synchronize()
