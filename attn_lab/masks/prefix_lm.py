"""Everybody sees the first `prefix` positions, and otherwise only backwards: T5-style prefix language models."""

from dataclasses import dataclass

from torch import Tensor

from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import Mask


@dataclass(frozen=True)
class PrefixLM(Mask):
    prefix: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, int) or self.prefix < 1:
            raise BadRequest(f"mask.prefix: expected a whole number of at least 1; got {self.prefix!r}")

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key < self.prefix) | (key <= query)

    def count(self, query: Tensor, seq_len_kv: int) -> Tensor:
        return (query + 1).clamp(min(self.prefix, seq_len_kv), seq_len_kv)
