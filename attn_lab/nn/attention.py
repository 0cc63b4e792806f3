"""A multi-head attention layer, qkv projection → attention → output projection, that takes any backend."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from attn_lab.core.backend import AttentionFn, Backend
from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import Mask
from attn_lab.core.shape import Shape
from attn_lab.nn.auto.auto import Auto
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.auto.table import DispatchTable
from attn_lab.nn.dispatcher import MOST, Choice, Dispatcher
from attn_lab.nn.documents import Boundaries, Documents
from attn_lab.nn.input_checks import check_input, check_look_ahead
from attn_lab.nn.kv_cache import KVCache
from attn_lab.nn.positions import Positions
from attn_lab.nn.ragged import Ragged
from attn_lab.nn.registry import AUTO, BackendLike, mask_named
from attn_lab.nn.rope import Rope, apply_rotary
from attn_lab.nn.tensor_mask import IdentityCache
from attn_lab.nn.tracing import autocasts, is_fake


class Attention(nn.Module):
    """Multi-head self-attention whose kernels are those of any backend: x (batch, seq, emb_dim) → the same shape.

    q, k and v come from one packed projection and reach the backend as strided views, uncopied (q and k of a layer
    with `rope` or `qk_norm` are new).  A backend is prepared once per shape, dtype, device and need of gradients.

    Args:
        emb_dim: width of the input and the output.
        num_heads: query heads.
        num_kv_heads: key and value heads, a divisor of num_heads; fewer: grouped-query attention.  None: num_heads.
        backend: a name ("sdpa_flash"), a Backend, or a list in order of preference; `choices` has the one selected for
            each request, and why preferred ones are unsupported.  "auto": the one measured as fastest.
        table: the dispatch table of "auto": a file of `attn-lab tune`, or a DispatchTable.  None: the one shipped for
            this GPU, or else a short measurement at first use, kept in the user's cache.
        mask: a name ("causal", "full", "sliding_window", …) or a Mask, as SlidingWindow(window=256).
        head_dim: width of a head.  None: emb_dim / num_heads.
        rope: rotary positions (arXiv:2104.09864): their base, as 10000.0, or a Rope.
        qk_norm: RMS norm over each head of q and k, with weights, before rope.
        dropout: share of attention weights dropped in training, 0 to 1; not every backend has it.
        bias: whether both projections have one.
        verify: compare a small case of each new kind of request (head_dim, dtype, mask kind, grouped heads, gradients)
            with float64 before its first use, unless a certificate has it; ATTN_LAB_VERIFY=off turns it off.

    Raises:
        BadRequest: for sizes that do not fit together, and for an unknown backend or mask.
        Unsupported: in a call, where no backend given supports the request; with every reason.
        Incorrect: in a call, where the result of a float16 backend is not finite.

    Example:
        >>> import torch
        >>> from attn_lab import Attention
        >>> layer = Attention(64, num_heads=4, num_kv_heads=2, backend=["flash2", "sdpa_flash"], mask="causal")
        >>> layer(torch.randn(2, 10, 64)).shape
        torch.Size([2, 10, 64])
        >>> type(layer.backend).__name__
        'SdpaFlash'
    """

    def __init__(
        self,
        emb_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        backend: BackendLike | Sequence[BackendLike] = AUTO,
        table: DispatchTable | str | PathLike[str] | None = None,
        mask: Mask | str = "causal",
        head_dim: int | None = None,
        rope: float | Rope | None = None,
        qk_norm: bool = False,
        dropout: float = 0.0,
        bias: bool = False,
        verify: bool = True,
    ):
        super().__init__()
        sizes = Shape(
            batch_size=1, seq_len=1, emb_dim=emb_dim, num_heads=num_heads,
            num_kv_heads=num_kv_heads, head_dim=head_dim,  # type: ignore[arg-type]
        )  # fmt: skip
        self.emb_dim = sizes.emb_dim
        self.num_heads, self.num_kv_heads, self.head_dim = sizes.num_heads, sizes.num_kv_heads, sizes.head_dim
        self._heads = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        self._packed_heads = sum(self._heads)
        self.rope = rope if rope is None or isinstance(rope, Rope) else Rope(rope)
        if self.rope is not None:
            self.rope.of(self.head_dim)
        self._positions = None if self.rope is None else Positions(self.rope, self.head_dim)
        self.dropout = dropout
        self.qkv = nn.Linear(self.emb_dim, self._packed_heads * self.head_dim, bias=bias)
        self.out = nn.Linear(self.num_heads * self.head_dim, self.emb_dim, bias=bias)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else None
        self.k_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else None
        self._as_projected = self.rope is None and not qk_norm  # q and k go to the backend as they come
        if table is not None and backend != AUTO:
            raise BadRequest(f"table: expected backend='auto', which alone follows one; got backend={backend!r}")
        self.verify = verify
        self._auto: BackendLike = AUTO if table is None and verify else Auto(table, verify=verify)
        self._dispatcher = Dispatcher(self._named(backend), mask_named(mask), dropout=dropout, verify=verify)
        self._known: dict[tuple[Any, ...], Callable[[Tensor, Sequence[int]], Tensor]] = {}
        self._packing = IdentityCache()

    @property
    def mask(self) -> Mask:
        """Which query may attend to which key; fixed for the layer."""
        return self._dispatcher.mask

    @property
    def backend(self) -> Backend | None:
        """The backend that computes the attention; of several, or "auto", that of the newest request (None: none yet).

        Assign another, or a list, to swap it; weights stay.
        """
        first, *others = self._dispatcher.backends
        if not others and not isinstance(first, Auto):
            return first
        return self.choices[-1].backend if self.choices else None

    @backend.setter
    def backend(self, backend: BackendLike | Sequence[BackendLike]) -> None:
        self._dispatcher = Dispatcher(self._named(backend), self.mask, dropout=self.dropout, verify=self.verify)
        self._known = {}

    def _named(self, backend: BackendLike | Sequence[BackendLike]) -> tuple[Backend, ...]:
        return backends_named(self._auto if backend == AUTO else backend)

    @property
    def choices(self) -> list[Choice]:
        """Every request so far, the newest last: the backend selected, and why preferred ones are unsupported."""
        return list(self._dispatcher.choices.values())

    @property
    def _weight(self) -> Tensor:
        """Of the packed projection, or of what wraps it."""
        weight = getattr(self.qkv, "weight", None)
        return weight if isinstance(weight, Tensor) else next(self.qkv.parameters())

    def use(self, attend: AttentionFn, x: Tensor) -> None:
        """Serve inputs like `x`, outside autocast, with an already prepared function of this layer's backend."""
        needs_grad = torch.is_grad_enabled() and (x.requires_grad or self._weight.requires_grad)
        size = (x.shape[0], x.shape[1], self.num_heads, self.head_dim)
        self._known = {}
        self._dispatcher.keep(attend, size, self.num_kv_heads, x.dtype, x.device, needs_grad)

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """An empty cache for decoding with this layer: on its weights' device, in their dtype or that of autocast."""
        dtype, device = self._weight.dtype, self._weight.device
        if autocasts(device):
            dtype = torch.get_autocast_dtype(device.type)
        return KVCache(batch_size, capacity, self.num_kv_heads, self.head_dim, dtype=dtype, device=device)

    def forward(self, x: Tensor, *, cu_seqlens: Boundaries = None, cache: KVCache | None = None) -> Tensor:
        """Attend from every token of x to those its mask allows.

        Args:
            x: (batch, seq, emb_dim) in the weights' dtype.
            cu_seqlens: boundaries [0, …, total] of documents packed in x (1, total, emb_dim); positions begin again in
                each.
            cache: keys and values of earlier tokens; x follows them, each sequence at its own length, and is added.

        Returns:
            (batch, seq, emb_dim).

        Raises:
            BadRequest: for arguments that contradict each other.
            Unsupported: where no backend given supports the request.
        """
        try:
            batch, seq, _ = x.shape
            packed = self.qkv(x)
        except (ValueError, RuntimeError):  # checked after the fact: to look before every call takes microseconds
            check_input(x, self.emb_dim, self._weight)
            raise
        packed = packed.view(batch, seq, self._packed_heads, self.head_dim)
        fake = type(packed) is not Tensor and is_fake(packed)
        alone = cu_seqlens is None and cache is None
        if self._as_projected and alone and not fake and not torch.compiler.is_compiling():
            key = (batch, seq, packed.dtype, packed.device, packed.requires_grad, self.training)
            serve = self._known.get(key) or self._whole(key, x, packed)
            return self.out(serve(packed, self._heads))
        q, k, v = packed.split_with_sizes(self._heads, dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            norms = self.q_norm.weight.dtype  # not q's under autocast
            q, k = self.q_norm(q.to(norms)).to(v.dtype), self.k_norm(k.to(norms)).to(v.dtype)
        documents = None if cu_seqlens is None else self._documents(cu_seqlens, x, cache)
        if self._positions is not None:
            length, starts = (0, None) if cache is None else (cache.length, cache.lengths)
            turn = self._positions.turn(q, length, documents, starts)
            q, k = apply_rotary(q, turn), apply_rotary(k, turn)
        if cache is not None:
            out = self._follow(cache, q, k, v)
        elif documents is not None:
            out = self._dispatcher.under(lambda: documents, q, k, v, self.training)
        else:
            out = self._dispatcher(q, k, v, self.training)(q, k, v)
        return self.out(out.flatten(2))

    def _follow(self, cache: KVCache, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention to what is in the cache and k and v after it, which are then in it; not if the call is refused."""
        seq, lengths = q.shape[1], cache.lengths
        if lengths is None:
            check_look_ahead(self.mask, cache.length + seq, seq)
            k, v = cache.followed_by(k, v)
            out = self._dispatcher(q, k, v, self.training)(q, k, v)
        else:
            ragged = Ragged.of(self.mask)
            check_look_ahead(self.mask, cache.length + seq, seq)
            k, v = cache.followed_by(k, v)
            out = self._dispatcher.ragged(ragged, q, k, v, lengths + seq, self.training)
        cache.advance(seq)
        return out

    def _whole(self, key: tuple[Any, ...], x: Tensor, packed: Tensor) -> Callable[[Tensor, Sequence[int]], Tensor]:
        """What serves the projection in one piece, to heads side by side; a later call only looks it up."""
        if packed.is_meta:
            check_input(
                x, self.emb_dim, self._weight
            )  # of an input without data torch makes a projection, wherever the weights are
        if len(self._known) >= MOST:
            self._known = {}  # not cleared: another thread may be looking something up
        q, k, v = packed.split_with_sizes(self._heads, dim=2)
        attend = self._dispatcher(q, k, v, self.training)
        by_parts = lambda packed, heads: attend(*packed.split_with_sizes(heads, dim=2)).flatten(2)  # noqa: E731
        serve = self._known[key] = getattr(attend, "packed", by_parts)
        return serve

    @torch.compiler.disable(reason="cu_seqlens are read outside torch.compile's graph")
    def _documents(self, cu_seqlens: Boundaries, x: Tensor, cache: KVCache | None) -> Documents:
        """The mask these boundaries make; read from the device once, as long as the same tensor comes again."""
        if cache is not None:
            raise BadRequest("cu_seqlens and cache: expected one of them; a cache holds one document a batch element")
        if x.shape[0] != 1:
            raise BadRequest(f"cu_seqlens: expected documents packed in one batch element; got batch {x.shape[0]}")
        if not isinstance(cu_seqlens, Tensor):
            return Documents.of(cu_seqlens, x.shape[1], self.mask)
        total = x.shape[1]
        return self._packing(lambda: Documents.of(cu_seqlens, total, self.mask), cu_seqlens, about=total)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_known": {}}  # made again where they are needed
