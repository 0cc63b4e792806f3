"""A multi-head attention layer, qkv projection → attention → output projection, that takes any backend."""

import torch
from torch import Tensor, nn

from attn_lab.core.backend import Attend, Backend, Request
from attn_lab.core.errors import BadRequest, Refused
from attn_lab.core.machine import detect
from attn_lab.core.mask import Mask
from attn_lab.core.shape import Shape


class Attention(nn.Module):
    """Self-attention: x (batch, seq, emb_dim) → (batch, seq, emb_dim).

    q, k and v come from one packed projection and reach the backend as strided views, uncopied.  The backend is
    prepared once per shape, dtype, device and need of gradients; what it cannot serve raises Refused with every
    reason.  `num_kv_heads` < `num_heads` is grouped-query attention; `head_dim` defaults to emb_dim / num_heads.
    """

    def __init__(
        self,
        emb_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        backend: Backend,
        mask: Mask,
        head_dim: int | None = None,
        bias: bool = False,
    ):
        super().__init__()
        sizes = Shape(
            batch_size=1, seq_len=1, emb_dim=emb_dim, num_heads=num_heads,
            num_kv_heads=num_kv_heads, head_dim=head_dim,  # type: ignore[arg-type]
        )  # fmt: skip
        self.emb_dim = emb_dim
        self.num_heads, self.num_kv_heads, self.head_dim = sizes.num_heads, sizes.num_kv_heads, sizes.head_dim
        self._mask = mask
        self.qkv = nn.Linear(emb_dim, (self.num_heads + 2 * self.num_kv_heads) * self.head_dim, bias=bias)
        self.out = nn.Linear(self.num_heads * self.head_dim, emb_dim, bias=bias)
        self.backend = backend

    @property
    def mask(self) -> Mask:
        """Who may attend to whom: the layer's for life."""
        return self._mask

    @property
    def backend(self) -> Backend:
        """Who computes the attention.  Assign another to swap it; weights stay."""
        return self._backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        self._backend = backend
        self._prepared: dict[tuple[object, ...], Attend] = {}

    def use(self, attend: Attend, x: Tensor) -> None:
        """Serve inputs like `x`, outside autocast, with an already prepared function of this layer's backend."""
        requires_grad = torch.is_grad_enabled() and (x.requires_grad or self.qkv.weight.requires_grad)
        self._prepared[x.shape[0], x.shape[1], x.dtype, x.device, requires_grad] = attend

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, seq, emb_dim) in the weights' dtype.  Raises BadRequest for another width, Refused by backends."""
        if x.dim() != 3 or x.shape[-1] != self.emb_dim:
            raise BadRequest(f"attention input: expected (batch, seq, {self.emb_dim}); got {tuple(x.shape)}")
        batch, seq, _ = x.shape
        packed = self.qkv(x).view(batch, seq, -1, self.head_dim)
        q, k, v = packed.split((self.num_heads, self.num_kv_heads, self.num_kv_heads), dim=2)
        key = (batch, seq, q.dtype, q.device, q.requires_grad)  # of q: autocast and no_grad have had their say
        if key not in self._prepared:
            self._prepared[key] = self._prepare(q)
        return self.out(self._prepared[key](q, k, v).reshape(batch, seq, -1))

    def _prepare(self, q: Tensor) -> Attend:
        shape = Shape(
            batch_size=q.shape[0], seq_len=q.shape[1], num_heads=self.num_heads, emb_dim=self.emb_dim,
            num_kv_heads=self.num_kv_heads, head_dim=self.head_dim, dtype=str(q.dtype).removeprefix("torch."),
        )  # fmt: skip
        passes = ("forward", "backward", "forward_backward") if q.requires_grad else ("forward",)
        request = Request(shape=shape, mask=self.mask, passes=passes)
        machine = detect(q.device.type)
        reasons = self.backend.refusals(request, machine)
        if reasons:
            raise Refused(type(self.backend).__name__, reasons)
        return self.backend.prepare(request, machine)
