"""Keys and values of what was said so far, so that the next token is one query and not the whole sequence again."""

import torch
from torch import Tensor

from attn_lab.core.errors import BadRequest


class KVCache:
    """Room for `capacity` positions of one layer.  `length` of them are filled; set it back to forget the last ones.

    For inference: Attention writes into it in place, under torch.no_grad() or torch.inference_mode().
    """

    def __init__(
        self, batch_size: int, capacity: int, num_kv_heads: int, head_dim: int, *,
        dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        if not all(isinstance(each, int) and each >= 1 for each in (batch_size, capacity)):
            raise BadRequest(f"cache: expected whole numbers of at least 1 for batch_size and capacity; "
                             f"got {batch_size!r} and {capacity!r}")  # fmt: skip
        size = (batch_size, capacity, num_kv_heads, head_dim)
        with torch.inference_mode(False):  # else it could only be used there
            self.k = torch.zeros(size, dtype=dtype, device=device)
            self.v = torch.zeros(size, dtype=dtype, device=device)
        self.length = 0

    @property
    def capacity(self) -> int:
        return self.k.shape[1]

    def followed_by(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values with k and v (batch, seq, kv_heads, head_dim) after them; `length` is left to the caller.

        Raises BadRequest for another batch, dtype or device, a full cache, or tensors that need gradients.
        """
        seq = k.shape[1]
        fits = k.shape[0] == self.k.shape[0] and k.shape[2:] == self.k.shape[2:]
        if not fits or k.dtype != self.k.dtype or k.device != self.k.device:
            raise BadRequest(f"cache: expected {_told(self.k)}; got {_told(k)} "
                             "(layer.new_cache, called as the layer is, makes one that fits)")  # fmt: skip
        if self.length + seq > self.capacity:
            raise BadRequest(f"cache: expected at most {self.capacity} positions; got {self.length} and {seq} more")
        if torch.is_grad_enabled() and k.requires_grad:
            raise BadRequest("cache: expected a call without gradients (under torch.no_grad()); got one with")
        end = self.length + seq
        self.k[:, self.length : end] = k
        self.v[:, self.length : end] = v
        return self.k[:, :end], self.v[:, :end]


def _told(kv: Tensor) -> str:
    return f"batch {kv.shape[0]}, {kv.shape[2]} heads of {kv.shape[3]}, {kv.dtype} on {kv.device}"
