"""Sequences of different lengths in one cache: a mask that is given each one's length with the call."""

from dataclasses import dataclass

from torch import Tensor

from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import FULL, Band, Mask


@dataclass(frozen=True)
class Ragged(Mask):
    """Each batch element sees its own first keys, as many as its length says; its queries are the last of those.

    What a backend prepares for it takes `lengths` (batch,) int32 after q, k and v: one function serves all of them.
    """

    inside: Band = FULL
    ragged = True
    uniform = False
    empty_rows = False  # an element's queries are among its keys

    @classmethod
    def of(cls, mask: Mask) -> "Ragged":
        """Raises BadRequest for a mask that knows more than distances."""
        if mask.band is None:
            raise BadRequest(f"cache.lengths: expected a mask that knows only distances (full, causal, "
                             f"sliding_window); got {type(mask).__name__}")  # fmt: skip
        return cls(mask.band)

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        raise BadRequest("a ragged mask: expected lengths, which come with each call (core.mask.dense_ragged)")
