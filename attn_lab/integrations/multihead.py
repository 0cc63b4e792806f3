"""torch.nn.MultiheadAttention, alone or in TransformerEncoderLayer and its like, computed by a backend instead."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_lab.core.errors import BadRequest
from attn_lab.masks.causal import Causal
from attn_lab.masks.full import Full
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.dispatcher import Dispatcher
from attn_lab.nn.registry import BackendLike
from attn_lab.nn.tensor_mask import IdentityCache, TensorMask, allowed_by


def convert(model: nn.Module, *, backend: BackendLike | Sequence[BackendLike], verify: bool = True) -> nn.Module:
    """Have a backend compute every nn.MultiheadAttention of a model, in place.

    Parameters stay the same objects under the same names, hooks stay, and a converted model can be converted again.
    Encoders lose PyTorch's fast path, which would go round the backend in eval mode.

    Args:
        model: any module with nn.MultiheadAttention in it, or one itself.
        backend: a name, a Backend, or a list in order of preference.
        verify: verify the first request of each kind (`attn_lab/nn/verification.py`).

    Returns:
        The model, or what replaces it if it is an nn.MultiheadAttention itself.

    Raises:
        BadRequest: where there is nothing to convert, or something that no backend here has; nothing is changed then.

    Example:
        >>> import torch, attn_lab
        >>> encoder = torch.nn.TransformerEncoderLayer(64, nhead=4, dropout=0.0, batch_first=True)
        >>> encoder = attn_lab.convert(encoder, backend="sdpa_flash")
        >>> encoder(torch.randn(2, 10, 64)).shape
        torch.Size([2, 10, 64])
    """
    found = {name: each for name, each in model.named_modules(remove_duplicate=False)
             if isinstance(each, nn.MultiheadAttention)}  # fmt: skip
    if not found:
        raise BadRequest(f"convert: expected a model with nn.MultiheadAttention in it; got {type(model).__name__} "
                         "without (for transformers and timm see attn_lab.integrations)")  # fmt: skip
    for name, each in found.items():
        _check_served(name or "the model", each)
    backends, recall = backends_named(backend), IdentityCache()
    shared = {  # by all modules alike, so that a mask is prepared once for all of them
        dropout: (
            Dispatcher(backends, Full(), dropout=dropout, verify=verify),
            Dispatcher(backends, Causal(), dropout=dropout, verify=verify),
        )
        for dropout in {each.dropout for each in found.values()}
    }
    converted = {id(each): Multihead(each, *shared[each.dropout], recall) for each in found.values()}
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoder) and any(id(part) in converted for part in encoder.modules()):
            encoder.use_nested_tensor = False  # its half of the fast path: layers would be given nested tensors
    for name, each in found.items():
        if not name:
            return converted[id(each)]
        model.set_submodule(name, converted[id(each)])
    return model


class Multihead(nn.MultiheadAttention):
    """An nn.MultiheadAttention whose attention a backend computes; its parameters are those of the one it replaces."""

    def __init__(
        self, theirs: nn.MultiheadAttention, full: Dispatcher, causal: Dispatcher, recall: IdentityCache
    ) -> None:
        nn.Module.__init__(self)  # not its own, which would make weights
        vars(self).update(vars(theirs))  # parameters, hooks and all: the very same objects
        self._full, self._causal, self._recall = full, causal, recall
        # A module with a hook is one that TransformerEncoderLayer's fast path, which knows only weights, steps over.
        if _nothing not in self._forward_pre_hooks.values():
            self.register_forward_pre_hook(_nothing)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """As nn.MultiheadAttention's, masks and all: bool True = may not attend.  Only need_weights=False."""
        if need_weights:
            raise BadRequest("need_weights: expected False, for a fused kernel has no weights to show; got True")
        if is_causal and attn_mask is None:
            raise BadRequest("is_causal: expected attn_mask with it, which it is a hint about; got none")
        alone = query.dim() == 2
        same = query is key and key is value
        if alone:
            query, key, value = (each.unsqueeze(0) for each in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        if query.dim() != 3 or query.is_nested or query.shape[-1] != self.embed_dim:
            raise BadRequest(f"query: expected two or three dimensions, the last {self.embed_dim}; "
                             f"got {tuple(query.shape)}")  # fmt: skip
        if key.dim() != 3 or key.shape[::2] != query.shape[::2]:  # a kernel would read past its end
            raise BadRequest(f"key: expected ({query.shape[0]}, any, {self.embed_dim}) as the query; "
                             f"got {tuple(key.shape)}")  # fmt: skip
        if value.shape != key.shape:
            raise BadRequest(f"value: expected the key's {tuple(key.shape)}; got {tuple(value.shape)}")
        q, k, v = self._project(query, key, value, same)
        square = q.shape[1] == k.shape[1]
        if is_causal and key_padding_mask is None and square:
            out = self._causal(q, k, v, self.training)(q, k, v)
        elif attn_mask is None and key_padding_mask is None:
            out = self._full(q, k, v, self.training)(q, k, v)
        else:
            out = self._full.under(lambda: self._mask(attn_mask, key_padding_mask, q, k), q, k, v, self.training)
        out = self.out_proj(out.flatten(2))
        if alone:
            return out.squeeze(0), None
        return out if self.batch_first else out.transpose(0, 1), None

    def _project(self, query: Tensor, key: Tensor, value: Tensor, same: bool) -> tuple[Tensor, ...]:
        """q, k, v: (batch, seq, heads, head_dim); of self-attention views of one packed projection."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if same:
            parts: Sequence[Tensor] = F.linear(query, weight, bias).chunk(3, dim=-1)
        else:
            biases = [None] * 3 if bias is None else bias.chunk(3)
            parts = [F.linear(each, *of) for each, of in
                     zip((query, key, value), zip(weight.chunk(3), biases, strict=True), strict=True)]  # fmt: skip
        return tuple(part.unflatten(-1, (self.num_heads, self.head_dim)) for part in parts)

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, k: Tensor) -> TensorMask:
        batch, queries, keys = *q.shape[:2], k.shape[1]

        def make() -> TensorMask:
            allowed = torch.ones((), dtype=torch.bool, device=q.device)
            if attn_mask is not None:
                _check_size("attn_mask", attn_mask, (queries, keys), (batch * self.num_heads, queries, keys))
                one = _allowed(attn_mask)
                allowed = one.view(batch, self.num_heads, queries, keys) if one.dim() == 3 else one[None, None]
            if key_padding_mask is not None:
                _check_size("key_padding_mask", key_padding_mask, (batch, keys))
                allowed = allowed & _allowed(key_padding_mask)[:, None, None]
            return TensorMask(allowed.expand(-1, -1, queries, -1))

        return self._recall(make, attn_mask, key_padding_mask, about=(batch, queries, keys))


def _check_served(name: str, theirs: nn.MultiheadAttention) -> None:
    """Raise BadRequest for what no backend here can stand in for."""
    if type(theirs).forward not in (nn.MultiheadAttention.forward, Multihead.forward):
        raise BadRequest(f"convert: expected nn.MultiheadAttention; {name} is a {type(theirs).__name__}, which has a "
                         "forward of its own")  # fmt: skip
    unserved = {
        "kdim or vdim": not theirs._qkv_same_embed_dim,
        "add_bias_kv": theirs.bias_k is not None,
        "add_zero_attn": theirs.add_zero_attn,
    }
    if any(unserved.values()):
        named = ", ".join(each for each, there in unserved.items() if there)
        raise BadRequest(f"nn.MultiheadAttention with {named}: no backend of attn_lab has that")


def _check_size(name: str, mask: Tensor, *sizes: tuple[int, ...]) -> None:
    if tuple(mask.shape) not in sizes:
        raise BadRequest(f"{name}: expected {' or '.join(map(str, sizes))}; got {tuple(mask.shape)}")


def _allowed(mask: Tensor) -> Tensor:
    return ~mask if mask.dtype == torch.bool else allowed_by(mask)


def _nothing(module: nn.Module, given: Any) -> None:
    """A hook that does nothing but be there."""
