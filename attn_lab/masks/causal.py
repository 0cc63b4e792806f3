"""A query sees itself and everything before it: the mask of a language model."""

from dataclasses import dataclass

from torch import Tensor

from attn_lab.core.mask import CAUSAL, Mask


@dataclass(frozen=True)
class Causal(Mask):
    band = CAUSAL

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key <= query

    def count(self, query: Tensor, seq_len_kv: int) -> Tensor:
        return (query + 1).clamp(0, seq_len_kv)
