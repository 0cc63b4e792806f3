"""Rotary position embedding: queries and keys turned by their positions, so that scores see only the distance."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attn_lab.core.errors import BadRequest

CosSin = tuple[Tensor, Tensor]
"""cos and sin of every position's angles: (seq, 1, dims / 2), or (batch, seq, 1, dims / 2)."""


@dataclass(frozen=True)
class Rope:
    """RoPE (Su et al. 2021, arXiv:2104.09864, §3.2.2) in the half-split order of GPT-NeoX and Llama.

    Channel i turns with channel i + dims/2, by the angle position · base^(-2i/dims).  The paper pairs 2i with 2i+1:
    the same up to a permutation of channels, which checkpoints have already made (`rotate_half` in transformers).
    Only the first `dims` channels of a head turn (None: all).
    """

    base: float = 10000.0
    dims: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.base, bool) or not isinstance(self.base, int | float) or not 1 < self.base < math.inf:
            raise BadRequest(f"rope.base: expected a number above 1, as 10000.0; got {self.base!r}")
        if self.dims is not None and (not isinstance(self.dims, int) or self.dims < 2 or self.dims % 2):
            raise BadRequest(f"rope.dims: expected an even number of at least 2; got {self.dims!r}")

    def of(self, head_dim: int) -> int:
        """Channels that turn.  Raises BadRequest where a head has not so many, or an odd number."""
        dims = head_dim if self.dims is None else self.dims
        if dims > head_dim or dims % 2:
            raise BadRequest(f"rope.dims: expected an even number of at most head_dim={head_dim}; got {dims}")
        return dims

    def turn(self, positions: Tensor, head_dim: int, dtype: torch.dtype) -> CosSin:
        """For `positions` (…, seq); in float64, then rounded to `dtype`: a float32 angle is off by 0.01 at 10^5."""
        dims = self.of(head_dim)
        steps = torch.arange(0, dims, 2, dtype=torch.float64, device=positions.device) / dims
        angles = positions.double()[..., None, None] * self.base**-steps
        return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(x: Tensor, turn: CosSin) -> Tensor:
    """x (batch, seq, heads, head_dim), turned in at least float32 and rounded back."""
    cos, sin = turn
    half = cos.shape[-1]
    first, second, rest = x.split_with_sizes((half, half, x.shape[-1] - 2 * half), dim=-1)
    parts = ((first * cos - second * sin).to(x.dtype), (second * cos + first * sin).to(x.dtype), rest)
    return torch.cat(parts, dim=-1)
