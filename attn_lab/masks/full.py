"""Every query sees every key."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attn_lab.core.mask import FULL, Mask


@dataclass(frozen=True)
class Full(Mask):
    band = FULL

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query == query) & (key == key)  # True in the shape both broadcast to, vmap included

    def count(self, query: Tensor, seq_len_kv: int) -> Tensor:
        return torch.full_like(query, seq_len_kv)
