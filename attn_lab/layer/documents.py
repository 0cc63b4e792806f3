"""Documents packed end to end, as `cu_seqlens` tells of them: a mask that no query crosses a boundary of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import FULL, Band, Mask


@dataclass(frozen=True)
class Documents(Mask):
    """Every document for itself; in it, `inside` says who sees whom.  `ends`: where each ends, rising."""

    ends: tuple[int, ...] = ()
    inside: Band = FULL

    @classmethod
    def of(cls, cu_seqlens: Sequence[int] | Tensor, total: int, mask: Mask) -> "Documents":
        """From boundaries [0, …, total] over `total` packed positions.  Raises BadRequest if they contradict it."""
        plain = cu_seqlens.tolist() if isinstance(cu_seqlens, Tensor) else cu_seqlens
        bounds = list(plain) if isinstance(plain, Iterable) else [plain]
        if mask.band is None:
            raise BadRequest(
                f"cu_seqlens: expected a mask that knows only distances (full, causal, sliding_window); "
                f"got {type(mask).__name__}"
            )
        whole = all(isinstance(bound, int) for bound in bounds)
        if not whole or bounds[:1] != [0] or bounds[-1] != total or any(a >= b for a, b in pairwise(bounds)):
            raise BadRequest(f"cu_seqlens: expected whole numbers rising from 0 to seq={total}; got {_short(bounds)}")
        return cls(tuple(bounds[1:]), mask.band)

    @cached_property
    def _tables(self) -> dict[torch.device, Tensor]:
        return {}

    @cached_property
    def _begins(self) -> tuple[int, ...]:
        return (0, *self.ends[:-1])

    def _start_of(self, position: Tensor) -> Tensor:
        """The first position of the document each position lies in."""
        starts = torch.tensor(self._begins, device=position.device)
        return starts[torch.searchsorted(starts, position, right=True) - 1]

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        left, right = self.inside
        start = self._starts_on(query.device)
        allowed = start[query] == start[key]
        if left is not None:
            allowed = allowed & (query - key <= left)
        if right is not None:
            allowed = allowed & (key - query <= right)
        return allowed

    def count(self, query: Tensor, seq_len_kv: int) -> Tensor:
        left, right = self.inside
        ends = torch.tensor(self.ends, device=query.device)
        start, end = self._start_of(query), ends[torch.searchsorted(ends, query, right=True)]
        first = start if left is None else torch.maximum(start, query - left)
        last = end - 1 if right is None else torch.minimum(end - 1, query + right)
        return last - first + 1

    def positions(self, device: torch.device) -> Tensor:
        """Every packed position's place in its own document."""
        return torch.arange(self.ends[-1], device=device) - self._starts_on(device)

    def _starts_on(self, device: torch.device) -> Tensor:
        """By packed position, a table, kept: flex_attention compiles a look-up, not a search."""
        if device not in self._tables:
            self._tables[device] = self._start_of(torch.arange(self.ends[-1], device=device))
        return self._tables[device]


def _short(bounds: Sequence[object]) -> str:
    return str(bounds) if len(bounds) <= 8 else f"[{', '.join(map(str, bounds[:4]))}, … {bounds[-1]}]"
