"""A query sees the last `window` positions, itself included: Mistral's and Gemma's local layers."""

from dataclasses import dataclass

from torch import Tensor

from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import Band, Mask


@dataclass(frozen=True)
class SlidingWindow(Mask):
    window: int = 1024

    def __post_init__(self) -> None:
        if not isinstance(self.window, int) or self.window < 1:
            raise BadRequest(f"mask.window: expected a whole number of at least 1; got {self.window!r}")

    @property
    def band(self) -> Band:  # type: ignore[override]
        return (self.window - 1, 0)

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key < self.window)

    def count(self, query: Tensor, seq_len_kv: int) -> Tensor:
        return (query + 1).clamp(0, min(self.window, seq_len_kv))
