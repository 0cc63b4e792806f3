"""Which query may attend to which key: one predicate over absolute positions; every other form derives from it."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from attn_lab.core.shape import Shape

Band = tuple[int | None, int | None]

FULL: Band = (None, None)
CAUSAL: Band = (None, 0)
KINDS = ("full", "causal", "band", "documents", "ragged", "predicate")


class Mask(Protocol):
    """A predicate: True where a query may attend to a key; subclass it explicitly to inherit the defaults.

    Positions are absolute and the queries are the last seq_len of seq_len_kv positions, so every mask is aligned
    bottom-right.

    Args:
        batch: indices, integer tensors that broadcast against one another (or scalars, under flex_attention's vmap).
        head: query heads, likewise.
        query: positions, likewise.
        key: positions, likewise.

    Returns:
        bool, of their common shape.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> from attn_lab import Attention
        >>> from attn_lab.core.mask import Mask
        >>> @dataclass(frozen=True)
        ... class EverySecond(Mask):
        ...     def __call__(self, batch, head, query, key):
        ...         return ((query - key) % 2 == 0) & (key <= query)
        >>> Attention(64, 4, backend="sdpa_math", mask=EverySecond())(torch.randn(1, 6, 64)).shape
        torch.Size([1, 6, 64])
    """

    band: Band | None = None  # (left, right): query - left <= key <= query + right; None in it: unlimited
    ends: tuple[int, ...] | None = None  # where documents packed end to end end, each with `inside` as its own band
    ends_kv: tuple[int, ...] | None = None  # where their keys end, if elsewhere than their queries
    ragged: bool = False  # each batch element has its own number of keys, which comes with each call; band `inside`
    inside: Band = FULL
    uniform: bool = True  # the same for every batch element and head
    empty_rows: bool | None = None  # whether some query sees no key, where the mask knows without being counted

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor: ...

    def count(self, query: Tensor, seq_len_kv: int) -> Tensor:
        """Keys in [0, seq_len_kv) that each query may attend to: int64, shape of `query`; only if `uniform`.

        Masks override this with their closed form; this default asks the predicate, a block of queries at a time.
        """
        zero = torch.zeros((), dtype=torch.long, device=query.device)
        key = torch.arange(seq_len_kv, device=query.device)
        blocks = query.split(max(1, 2**22 // seq_len_kv))
        rows = [self(zero, zero, block[:, None], key).expand(len(block), -1).sum(-1) for block in blocks]
        return torch.cat(rows)


def kind(mask: Mask) -> str:
    """The least a backend must understand to serve this mask: one of KINDS."""
    if mask.ragged:
        return "ragged"
    if mask.band is None:
        return "predicate" if mask.ends is None else "documents"
    return {FULL: "full", CAUSAL: "causal"}.get(mask.band, "band")


def query_positions(shape: Shape, device: torch.device | str = "cpu") -> Tensor:
    """Absolute positions of the queries: (seq_len,) int64; negative where seq_len > seq_len_kv."""
    return torch.arange(shape.offset, shape.seq_len_kv, device=device)


def dense(
    mask: Mask,
    shape: Shape,
    device: torch.device | str,
    *,
    batch: Tensor | None = None,
    head: Tensor | None = None,
    query: Tensor | None = None,
) -> Tensor:
    """The mask as bool: (B or 1, H or 1, Sq, seq_len_kv), True = may attend.

    A uniform mask gives (1, 1, …).  `batch`, `head` and `query` are the indices and absolute positions wanted
    (1-D, int64); default: all of them.
    """
    if mask.uniform:
        batch = head = torch.zeros(1, dtype=torch.long, device=device)
    if batch is None:
        batch = torch.arange(shape.batch_size, device=device)
    if head is None:
        head = torch.arange(shape.num_heads, device=device)
    if query is None:
        query = query_positions(shape, device)
    key = torch.arange(shape.seq_len_kv, device=device)
    allowed = mask(batch[:, None, None, None], head[:, None, None], query[:, None], key)
    return allowed.expand(len(batch), len(head), len(query), len(key))


def dense_like(mask: Mask, q: Tensor, k: Tensor) -> Tensor:
    """A uniform mask as bool (1, 1, Sq, Skv), for the sizes of q and k (batch, seq, heads, head_dim), traced or fake
    ones included: nothing is kept, and no size becomes a constant.
    """
    zero = torch.zeros(1, dtype=torch.long, device=q.device)
    queries, keys = q.shape[1], k.shape[1]
    query = torch.arange(queries, device=q.device) + (keys - queries)
    return mask(zero, zero, query[:, None], torch.arange(keys, device=q.device))[None, None]


def dense_ragged(mask: Mask, q: Tensor, k: Tensor, lengths: Tensor) -> Tensor:
    """A ragged mask as bool (batch, 1, Sq, Skv): `lengths` (batch,) keys are each element's, its queries the last."""
    left, right = mask.inside
    key = torch.arange(k.shape[1], device=q.device)
    own = (lengths[:, None] - q.shape[1] + torch.arange(q.shape[1], device=q.device))[:, :, None]
    allowed = (key < lengths[:, None, None]).expand(-1, q.shape[1], -1)
    if left is not None:
        allowed = allowed & (key >= own - left)
    if right is not None:
        allowed = allowed & (key <= own + right)
    return allowed[:, None]


def boundaries(ends: tuple[int, ...], device: torch.device | str) -> tuple[Tensor, int]:
    """cu_seqlens (documents + 1,) int32 of packed documents that end there, and the longest one's length."""
    return torch.tensor((0, *ends), dtype=torch.int32, device=device), max(b - a for a, b in pairwise((0, *ends)))


def pair_count(mask: Mask, shape: Shape) -> int:
    """Exact number of (query, key) pairs allowed, summed over batch and query heads."""
    pairs = sum(int(counts.sum()) for counts in _counts(mask, shape))
    return pairs * shape.batch_size * shape.num_heads if mask.uniform else pairs


def has_empty_rows(mask: Mask, shape: Shape) -> bool:
    """Whether some query may attend to nothing; its output is defined as zero."""
    if mask.empty_rows is not None:
        return mask.empty_rows
    return any(bool((counts == 0).any()) for counts in _counts(mask, shape))


def _counts(mask: Mask, shape: Shape) -> Iterator[Tensor]:
    """Keys each query may attend to, a block of queries at a time; by batch and head unless the mask is uniform."""
    per_query = 1 if mask.uniform else shape.batch_size * shape.num_heads * shape.seq_len_kv
    size = max(1, 2**22 // per_query)
    for start in range(shape.offset, shape.seq_len_kv, size):
        query = torch.arange(start, min(start + size, shape.seq_len_kv), device="cpu")
        yield mask.count(query, shape.seq_len_kv) if mask.uniform else dense(mask, shape, "cpu", query=query).sum(-1)
