"""timm's vision transformers: an attention class to create a model with, computed by a backend of your choice."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from timm.layers.attention import Attention
from torch import Tensor

from attn_lab.core.backend import Backend
from attn_lab.core.errors import BadRequest
from attn_lab.masks.causal import Causal
from attn_lab.masks.full import Full
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.dispatcher import Dispatcher
from attn_lab.nn.registry import BackendLike
from attn_lab.nn.tensor_mask import IdentityCache, TensorMask, allowed_by


def attention(backend: BackendLike | Sequence[BackendLike], *, verify: bool = True) -> type[Attention]:
    """timm's own Attention class, computed by a backend: timm.create_model(…, attn_layer=attention("sdpa_flash")).

    Args:
        backend: a name, a Backend, or a list in order of preference.
        verify: verify the first request of each kind (`attn_lab/nn/verification.py`).

    Returns:
        A subclass of timm.layers.Attention.

    Raises:
        BadRequest: for an unknown backend.
    """
    return _attention(backends_named(backend), verify)


@cache
def _attention(backends: tuple[Backend, ...], verify: bool) -> type[Attention]:
    """One class for the same backends, so that what is pickled comes back as itself."""
    return type("LabAttention", (_LabAttention,), {"backends": backends, "verify": verify, "__module__": __name__})


class _LabAttention(Attention):
    backends: tuple[Backend, ...] = ()
    verify: bool = True

    def __init__(self, *args: Any, attn_drop: float = 0.0, **options: Any) -> None:
        super().__init__(*args, attn_drop=attn_drop, **options)
        self._full = Dispatcher(self.backends, Full(), dropout=attn_drop, scale=self.scale, verify=self.verify)
        self._causal = Dispatcher(self.backends, Causal(), dropout=attn_drop, scale=self.scale, verify=self.verify)
        self._recall = IdentityCache()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """By its backends: a class that was made is found under no name."""
        return _unpickled, (self.backends, self.verify), self.__getstate__()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """x: (batch, tokens, dim).  attn_mask: bool, True = may attend, or additive with 0 and -inf alone."""
        if is_causal and attn_mask is not None:
            raise BadRequest("attention: expected attn_mask or is_causal; got both")
        packed = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = packed.unbind(2)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if attn_mask is None:
            out = (self._causal if is_causal else self._full)(q, k, v, self.training)(q, k, v)
        else:
            tokens = x.shape[1]

            def given() -> TensorMask:
                return self._recall(lambda: _given(attn_mask, tokens), attn_mask, about=tokens)

            out = self._full.under(given, q, k, v, self.training)
        out = self.norm(out.flatten(2))
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(out))


def _unpickled(backends: tuple[Backend, ...], verify: bool) -> Attention:
    kind = _attention(backends, verify)
    return object.__new__(kind)


def _given(mask: Tensor, tokens: int) -> TensorMask:
    """Whatever broadcasts to (batch, heads, tokens, tokens)."""
    allowed = allowed_by(mask)
    allowed = allowed.view(*(1,) * (4 - allowed.dim()), *allowed.shape)
    return TensorMask(allowed.expand(-1, -1, tokens, tokens))
