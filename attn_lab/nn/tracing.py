"""Calls that torch looks at instead of running: fake tensors, modes, tracing with sizes left open."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Made = TypeVar("Made")
OPEN_BATCH, OPEN_LENGTH = 8, 1024  # what backends are asked for where a traced size is left open


def is_fake(tensor: Tensor) -> bool:
    """Whether it has sizes but no data: under FakeTensorMode, or on the meta device."""
    return isinstance(tensor, FakeTensor) or tensor.is_meta


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for that device; torch raises for meta."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def with_real_tensors(make: Callable[[], Made]) -> Made:
    """What `make` gives, made of real tensors on the devices it names.

    Dispatch modes (FakeTensorMode, FLOP counters), function modes (torch.set_default_device) and export's tracing are
    a thread's own: where there is one, another thread makes it.
    """
    modes = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()
    if not modes and not torch.compiler.is_exporting():
        return make()
    with ThreadPoolExecutor(1) as outside:
        return outside.submit(make).result()


def by_sizes_alone(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> Tensor:
    """An output of the right size, dtype and gradients, for tensors on the meta device, which no backend serves."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    grouped = q.shape[1] != k.shape[1]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=grouped).transpose(1, 2)


def of_nothing(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Attention where there is no batch element, query or key: zeros like q, with gradients of zero for all three."""
    return torch.zeros_like(q) + (q[:0].sum() + k[:0].sum() + v[:0].sum())


def asked_sizes(q: Tensor, k: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """While tracing: the sizes of q and k with a stand-in for each that is left open; None where none is."""
    from torch.fx.experimental.symbolic_shapes import has_static_value  # imports sympy, which only tracing needs

    (batch, seq, heads, head_dim), (_, keys, kv_heads, _) = q.shape, k.shape
    if has_static_value(batch) and has_static_value(seq) and has_static_value(keys):
        return None
    same = seq == keys
    asked_batch = int(batch) if has_static_value(batch) else OPEN_BATCH
    asked_seq = int(seq) if has_static_value(seq) else OPEN_LENGTH
    asked_keys = asked_seq if same else (int(keys) if has_static_value(keys) else 2 * max(OPEN_LENGTH, asked_seq))
    return (asked_batch, asked_seq, int(heads), int(head_dim)), (asked_batch, asked_keys, int(kv_heads), int(head_dim))
