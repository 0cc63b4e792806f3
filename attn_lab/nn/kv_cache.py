"""Keys and values of what was said so far, so that the next token is one query and not the whole sequence again."""

import math
from collections.abc import Iterable
from operator import index
from typing import Any

import torch
from torch import Tensor

from attn_lab.core.errors import BadRequest
from attn_lab.core.shape import whole_number


class KVCache:
    """Room for `capacity` positions of one layer.  `length` of them are filled; set it back to forget the last ones.

    `lengths` is each sequence's own number instead, once it is set: after a prompt padded on the right, say
    `cache.lengths = [5, 3]`, and the next token of each follows its own last.
    For inference: Attention writes into it in place, under torch.no_grad() or torch.inference_mode().
    """

    def __init__(
        self, batch_size: int, capacity: int, num_kv_heads: int, head_dim: int, *,
        dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        if not _within(batch_size, 0) or not _within(capacity, 1):
            raise BadRequest(f"cache: expected whole numbers, of at least 0 for batch_size and 1 for capacity; "
                             f"got {batch_size!r} and {capacity!r}")  # fmt: skip
        size = (index(batch_size), index(capacity), num_kv_heads, head_dim)
        with torch.inference_mode(False):  # else it could only be used there
            self.k = torch.zeros(size, dtype=dtype, device=device)
            self.v = torch.zeros(size, dtype=dtype, device=device)
        self._length = 0
        self._each: list[int] | None = None  # lengths, where they differ: on the host, so that no call waits
        self._lengths: Tensor | None = None  # the same on the cache's device, int32

    @property
    def capacity(self) -> int:
        return self.k.shape[1]

    @property
    def length(self) -> int:
        """Positions filled, of the longest sequence."""
        return self._length

    @length.setter
    def length(self, length: int) -> None:
        if not _within(length, 0, self.capacity):
            raise BadRequest(f"cache.length: expected a whole number from 0 to {self.capacity}; got {length!r}")
        self._length, self._each, self._lengths = index(length), None, None

    @property
    def lengths(self) -> Tensor | None:
        """Positions filled, of each sequence (batch,) int32; None while all have `length`."""
        return self._lengths

    @lengths.setter
    def lengths(self, lengths: Iterable[int] | Tensor) -> None:
        plain: Any = lengths.tolist() if hasattr(lengths, "tolist") else lengths
        each = list(plain) if isinstance(plain, Iterable) else [plain]
        batch = self.k.shape[0]
        if len(each) != batch or not all(_within(one, 0, self.capacity) for one in each):
            raise BadRequest(f"cache.lengths: expected {batch} whole numbers from 0 to {self.capacity}; got {each}")
        self._each = [index(one) for one in each]
        self._length = max(self._each, default=0)
        with torch.inference_mode(False):
            self._lengths = torch.tensor(self._each, dtype=torch.int32, device=self.k.device)

    def followed_by(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values with k and v (batch, seq, kv_heads, head_dim) after each sequence's last.

        `advance` makes them part of the cache.  Raises BadRequest for another batch, dtype or device, a full cache, or
        tensors that need gradients.
        """
        seq = k.shape[1]
        fits = k.shape[0] == self.k.shape[0] and k.shape[2:] == self.k.shape[2:]
        if not fits or k.dtype != self.k.dtype or k.device != self.k.device:
            raise BadRequest(f"cache: expected {_described(self.k)}; got {_described(k)} "
                             "(layer.new_cache, called as the layer is, makes one that fits)")  # fmt: skip
        end = self._length + seq
        if end > self.capacity:
            raise BadRequest(f"cache: expected at most {self.capacity} positions; got {self._length} and {seq} more")
        if torch.is_grad_enabled() and k.requires_grad:
            raise BadRequest("cache: expected a call without gradients (under torch.no_grad()); got one with")
        if self._lengths is None:
            self.k[:, self._length : end] = k
            self.v[:, self._length : end] = v
        else:
            row = torch.arange(k.shape[0], device=k.device)[:, None]
            column = self._lengths[:, None] + torch.arange(seq, device=k.device)
            self.k[row, column], self.v[row, column] = k, v
        return self.k[:, :end], self.v[:, :end]

    def advance(self, seq: int) -> None:
        """Each sequence is `seq` positions longer."""
        self._length += seq
        if self._lengths is not None and self._each is not None:
            self._each = [one + seq for one in self._each]
            self._lengths = self._lengths + seq


def _within(value: object, least: int, most: float = math.inf) -> bool:
    whole = whole_number(value)
    return whole is not None and least <= whole <= most


def _described(kv: Tensor) -> str:
    return f"batch {kv.shape[0]}, {kv.shape[2]} heads of {kv.shape[3]}, {kv.dtype} on {kv.device}"
