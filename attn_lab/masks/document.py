"""Documents packed end to end, each causal within itself: how language models are pre-trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import Mask


@dataclass(frozen=True)
class Document(Mask):
    """`lengths` are the documents' lengths in order, begun again when they run out."""

    lengths: Sequence[int] = (384, 640, 128, 896)

    def __post_init__(self) -> None:
        lengths = [] if isinstance(self.lengths, int | str) else list(self.lengths)
        if not lengths or any(not isinstance(length, int) or length < 1 for length in lengths):
            raise BadRequest(f"mask.lengths: expected a list of whole numbers of at least 1; got {self.lengths}")
        object.__setattr__(self, "lengths", tuple(lengths))  # from YAML it is a list

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (self._document(query) == self._document(key))

    def count(self, query: Tensor, seq_len_kv: int) -> Tensor:
        period = sum(self.lengths)
        starts = torch.tensor([0, *accumulate(self.lengths)][:-1], device=query.device)
        within = query % period
        first = query - within + starts[torch.searchsorted(starts, within, right=True) - 1]
        return (query + 1 - first.clamp(min=0)).clamp(min=0)

    def _document(self, position: Tensor) -> Tensor:
        """Which document a position lies in.  Arithmetic alone, so that flex_attention can compile it."""
        period = sum(self.lengths)
        within = position % period
        number = position // period * len(self.lengths)
        for end in list(accumulate(self.lengths))[:-1]:
            number = number + (within >= end)
        return number
