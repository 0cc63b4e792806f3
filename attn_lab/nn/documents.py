"""Documents packed end to end, as `cu_seqlens` tells of them: a mask that no query crosses a boundary of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import FULL, Band, Mask
from attn_lab.core.shape import whole_number
from attn_lab.nn.tracing import is_fake

Boundaries = Sequence[int] | Tensor | Any
"""[0, …, total], never falling: a list, a tensor or a numpy array of whole numbers."""


@dataclass(frozen=True)
class Documents(Mask):
    """Every document for itself; in it, `inside` says which distances are seen, its last query aligned to its last key.

    ends     where each document's queries end, rising
    ends_kv  where its keys end, never falling; None: where its queries do
    """

    ends: tuple[int, ...] = ()
    inside: Band = FULL
    ends_kv: tuple[int, ...] | None = None

    @classmethod
    def of(
        cls, cu_seqlens: Boundaries, total: int, mask: Mask, *, cu_seqlens_k: Boundaries = None,
        total_k: int | None = None,
    ) -> "Documents":  # fmt: skip
        """From boundaries [0, …, total] over `total` packed queries, and over `total_k` packed keys if they differ.

        Documents without a query are left out.  Raises BadRequest for boundaries that contradict the sizes.
        """
        if mask.band is None:
            raise BadRequest(
                f"cu_seqlens: expected a mask that knows only distances (full, causal, sliding_window); "
                f"got {type(mask).__name__}"
            )
        ends = _ends("cu_seqlens", cu_seqlens, "seq", total)
        if cu_seqlens_k is None:
            return cls(tuple(dict.fromkeys(end for end in ends if end)), mask.band)
        ends_kv = _ends("cu_seqlens_k", cu_seqlens_k, "the keys'", total if total_k is None else total_k)
        if len(ends_kv) != len(ends):
            raise BadRequest(f"cu_seqlens_k: expected as many documents as cu_seqlens has, {len(ends)}; "
                             f"got {len(ends_kv)}")  # fmt: skip
        if ends_kv == ends:
            return cls(tuple(dict.fromkeys(end for end in ends if end)), mask.band)
        return cls(tuple(ends), mask.band, tuple(ends_kv))

    @property
    def empty_rows(self) -> bool | None:  # type: ignore[override]
        return False if self.ends_kv is None else None  # each query of the same boundaries sees itself

    @property
    def boundaries(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """cu_seqlens of the queries and of the keys, as variable-length kernels take them."""
        return (0, *self.ends), (0, *(self.ends if self.ends_kv is None else self.ends_kv))

    @cached_property
    def _tables(self) -> dict[torch.device, Tensor]:
        return {}

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        first, last, _ = self._table(query.device)
        at = query - self._offset
        return (first[at] <= key) & (key <= last[at])

    def count(self, query: Tensor, seq_len_kv: int) -> Tensor:
        first, last, _ = self._table(query.device)
        at = query - self._offset
        return (last[at] - first[at] + 1).clamp(min=0)

    def positions(self, device: torch.device) -> Tensor:
        """Every packed query's place in its own document."""
        return self._table(device)[2]

    @property
    def _offset(self) -> int:
        """Absolute position of the first query: queries are the last of all positions."""
        return self.boundaries[1][-1] - self.boundaries[0][-1]

    def _table(self, device: torch.device) -> Tensor:
        """By packed query: the first key that is seen, the last, its place in its document; (3, total).

        A table, and kept: flex_attention compiles a look-up, not a search.
        """
        if device in self._tables:
            return self._tables[device]
        bounds, bounds_k = (torch.tensor(each, device=device) for each in self.boundaries)
        lengths = bounds.diff()
        total = self.boundaries[0][-1]
        begin, end, shift = (
            each.repeat_interleave(lengths, output_size=total)
            for each in (bounds_k[:-1], bounds_k[1:], bounds_k[1:] - bounds[1:])
        )
        own = torch.arange(total, device=device) + shift
        left, right = self.inside
        first = begin if left is None else torch.maximum(begin, own - left)
        last = end - 1 if right is None else torch.minimum(end - 1, own + right)
        table = torch.stack((first, last, own - begin))
        if not is_fake(table):
            self._tables[device] = table
        return table


def _ends(name: str, cu_seqlens: Boundaries, what: str, total: int) -> list[int]:
    if isinstance(cu_seqlens, Tensor) and is_fake(cu_seqlens):
        raise BadRequest(f"{name}: expected boundaries with data; got a tensor without (give them as a list)")
    plain = cu_seqlens.tolist() if hasattr(cu_seqlens, "tolist") else cu_seqlens  # of tensors and numpy arrays
    bounds = list(plain) if isinstance(plain, Iterable) else [plain]
    ends = [whole_number(bound) for bound in bounds]
    whole = [end for end in ends if end is not None]
    if len(whole) < len(ends) or whole[:1] != [0] or whole[-1] != total or any(a > b for a, b in pairwise(whole)):
        raise BadRequest(f"{name}: expected whole numbers rising from 0 to {what}={total}; got {_short(bounds)}")
    return whole[1:]


def _short(bounds: Sequence[object]) -> str:
    return str(bounds) if len(bounds) <= 8 else f"[{', '.join(map(str, bounds[:4]))}, … {bounds[-1]}]"
