"""Questions that are answered alike: the bucket of each, and how far one is from another."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FARTHER = {"head_dim": 4.0, "kv_ratio": 1.0, "batch_heads": 0.5, "seq_len": 1.0, "seq_len_kv": 1.0}  # a doubling of it


@dataclass(frozen=True, order=True)
class Bucket:
    """Questions that are answered alike: sizes that vary by the batch are taken to the nearest power of two."""

    mask: str  # its name and settings, as "sliding_window window=256"
    dtype: str
    head_dim: int
    kv_ratio: int  # query heads that share a key/value head
    batch_heads: int  # batch_size × num_heads
    seq_len: int
    seq_len_kv: int

    @classmethod
    def of(cls, mask: str, shape: Mapping[str, Any]) -> "Bucket":
        """`shape`: the fields of a Shape, those that follow from others included."""
        queries, keys = shape["seq_len"], shape["seq_len_kv"]
        if mask == "causal" and queries == 1:
            mask = "full"  # a lone query is the last, and sees every key
        return cls(
            mask=mask, dtype=shape["dtype"], head_dim=shape["head_dim"],
            kv_ratio=shape["num_heads"] // shape["num_kv_heads"],
            batch_heads=_rounded(shape["batch_size"] * shape["num_heads"]),
            seq_len=_rounded(queries), seq_len_kv=_rounded(keys),
        )  # fmt: skip

    def far(self, other: "Bucket") -> float:
        """How far apart two questions are; infinitely, where mask, dtype or one of them being square differs."""
        alike = ("mask", "dtype", "square")
        if any(getattr(self, name) != getattr(other, name) for name in alike):
            return math.inf
        return sum(
            weight * abs(math.log2(getattr(self, name) / getattr(other, name))) for name, weight in FARTHER.items()
        )

    @property
    def square(self) -> bool:
        """As many queries as keys: training and prefill, not decoding."""
        return self.seq_len == self.seq_len_kv

    def __str__(self) -> str:
        keys = "" if self.square else f" over {self.seq_len_kv} keys"
        return (
            f"{self.mask} {self.dtype}, head_dim {self.head_dim}, kv_ratio {self.kv_ratio}, "
            f"batch×heads {self.batch_heads}, seq_len {self.seq_len}{keys}"
        )


def mask_words(name: str, settings: Mapping[str, Any]) -> str:
    """A mask's name, and those of its settings that are plain: two windows are two questions."""
    plain = {key: value for key, value in settings.items() if key[0] != "_" and isinstance(value, int | float | str)}
    return " ".join([name, *(f"{key}={value}" for key, value in plain.items())])


def _rounded(size: int) -> int:
    return 1 << round(math.log2(size))
