"""transformers 5: every backend as an `attn_implementation`, with the mask it needs for padded batches."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from operator import index
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import causal_mask_function, sdpa_mask

from attn_lab.core.backend import AttentionFn, Backend
from attn_lab.core.errors import BadRequest
from attn_lab.integrations.transformers_models import unreachable
from attn_lab.masks.causal import Causal
from attn_lab.masks.full import Full
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.dispatcher import Dispatcher
from attn_lab.nn.registry import BackendLike, backend_names
from attn_lab.nn.tensor_mask import IdentityCache, TensorMask, allowed_by

UNSERVED = ("softcap", "s_aux", "sinks", "position_bias", "cache", "indices", "block_indices")  # no backend has these
CAUSAL_ALONE = (1, 1, 1, 1)  # the shape of a mask, False, that stands for causal and nothing more
PREPARED = "lab_prepared"
_names = {PREPARED}
_functions: WeakKeyDictionary[nn.Module, AttentionFn] = WeakKeyDictionary()


def register(*, verify: bool = True) -> dict[str, str]:
    """Register every backend as an `attn_implementation` of transformers.

    transformers takes a name with "flash" in it for its own, and one with "sdpa" needs a model with an SDPA flag.
    In the names returned these are "fa" and "torch".  Names with "sdpa" ("lab_sdpa_cudnn") are registered as well.

    Args:
        verify: verify the first request of each kind (`attn_lab/nn/verification.py`).

    Returns:
        The name of each backend: {"sdpa_cudnn": "lab_torch_cudnn", "flash2": "lab_fa2", …}.

    Example:
        >>> from attn_lab.integrations import transformers
        >>> transformers.register()["sdpa_flash"]
        'lab_torch_fa'
    """
    names = {}
    for backend in backend_names():
        alias = f"lab_{backend.replace('flash', 'fa')}"
        names[backend] = alias.replace("sdpa", "torch")
        for name in {alias, names[backend]}:
            register_as(name, backend, verify=verify)
    return names


def register_as(name: str, backend: BackendLike | Sequence[BackendLike], *, verify: bool = True) -> None:
    """Register a backend, or a list in order of preference, under a name of your own.

    Args:
        name: a name that transformers does not use, without "flash", "/", "|" and "@".
        backend: a name, a Backend, or a list in order of preference.
        verify: verify the first request of each kind (`attn_lab/nn/verification.py`).

    Raises:
        BadRequest: for a name that transformers keeps for itself, and for an unknown backend.
    """
    if "flash" in name or set(name) & set("/|@"):
        raise BadRequest(f"attn_implementation: expected a name without 'flash', '/', '|' or '@', which transformers "
                         f"keeps for itself; got {name!r}")  # fmt: skip
    if name in ("", "eager") or (name in AttentionInterface().valid_keys() and name not in _names):
        raise BadRequest(f"attn_implementation: expected a name of your own; got {name!r}")
    _refuse_unreachable_models()
    _names.add(name)
    AttentionInterface.register(name, _attention(name, backends_named(backend), verify))
    AttentionMaskInterface.register(name, mask)


@cache
def _refuse_unreachable_models() -> None:
    """Have models that compute attention by themselves refuse the registered names, from the first of them on.

    Such a model never looks a name up, and would only be given the mask that goes with it.  transformers has one place
    where a model meets the name it is given: a method of all models, which other names pass through unchanged.
    """
    theirs = PreTrainedModel.get_correct_attn_implementation

    @wraps(theirs)
    def correct(model: PreTrainedModel, requested_attention: str | None, *others: Any, **words: Any) -> str:
        if requested_attention in _names and (why := unreachable(type(model))):  # type: ignore[arg-type]
            raise BadRequest(f"{type(model).__name__}: {why}: expected attn_implementation='eager' (in a model of "
                             f"several parts a dict, 'eager' for this one); got {requested_attention!r}")  # fmt: skip
        return theirs(model, requested_attention, *others, **words)

    PreTrainedModel.get_correct_attn_implementation = correct


def use(model: PreTrainedModel, attend: AttentionFn) -> None:
    """Have all attention in `model` computed by one prepared function, for inputs of the sizes it was prepared for.

    Mask, scale and dropout are the function's.  transformers makes no mask under a name without a mask interface, nor
    waits for the device to see whether it must; a batch with a mask of its own is refused, as it would not be applied.
    """
    if model not in _functions:
        model.register_forward_pre_hook(_check_unmasked, with_kwargs=True)
    _refuse_unreachable_models()
    AttentionInterface.register(PREPARED, _prepared)
    model.set_attn_implementation(PREPARED)
    if model.config._attn_implementation != PREPARED:  # transformers only warns
        raise BadRequest(f"{type(model).__name__} computes attention by itself, not by AttentionInterface")
    for module in model.modules():
        _functions[module] = attend


def _check_unmasked(model: nn.Module, words: tuple[Any, ...], others: Mapping[str, Any]) -> None:
    if len(words) > 1 or others.get("attention_mask") is not None:
        raise BadRequest(f"{PREPARED}: expected input_ids and words by name, attention_mask not among them: the mask "
                         "is that of the function prepared")  # fmt: skip


def _prepared(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **others: Any
) -> tuple[Tensor, None]:
    _check_served(PREPARED, query, key, value, others)
    return _functions[module](*_as_autocast(*(each.transpose(1, 2) for each in (query, key, value)))).contiguous(), None


def _check_served(name: str, query: Tensor, key: Tensor, value: Tensor, others: Mapping[str, Any]) -> None:
    """Raise BadRequest for what a model asks of attention beyond attention."""
    unserved = [word for word in UNSERVED if others.get(word) is not None]
    unserved += ["output_attentions"] if others.get("output_attentions") else []
    if not query.shape[-1] == key.shape[-1] == value.shape[-1]:
        unserved += ["values of another head_dim than the keys"]
    if unserved:
        raise BadRequest(f"{name}: this model asks for {', '.join(unserved)}, which no backend of attn_lab has "
                         "(attn_implementation='eager' has)")  # fmt: skip


def _as_autocast(*tensors: Tensor) -> Sequence[Tensor]:
    """Under autocast rotations leave q and k in float32 beside a v that is not: as attention of torch's, cast all."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]


def mask(
    batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, kv_offset: int = 0,
    mask_function: Callable = causal_mask_function, attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True, config: PreTrainedConfig | None = None, **others: Any,
) -> Tensor | None:  # fmt: skip
    """What a model passes on to `attend`: None for no mask, CAUSAL_ALONE, or bool with True = may attend.

    A padded batch has a mask on whichever side the padding is, so that padded positions answer as those of eager do.
    """
    # Layers that share keys may be given the last queries only: then the mask alone says which they are.
    alone = bool(getattr(config, "num_kv_shared_layers", 0))
    skip = allow_is_causal_skip and not alone
    allowed = sdpa_mask(
        batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset, kv_offset=kv_offset,
        mask_function=mask_function, attention_mask=attention_mask, allow_is_causal_skip=skip, config=config, **others,
    )  # fmt: skip
    if allowed is None and skip and q_length > 1 and kv_length > 1:
        return torch.zeros(CAUSAL_ALONE, dtype=torch.bool, device=others.get("device"))
    return allowed


def _given(mask: Tensor, size: tuple[int, int]) -> tuple[TensorMask, Tensor | None]:
    """The mask a model gives, of (batch or 1, heads or 1, *size), and which queries it lets see nothing, if any.

    Such a query is padding.  To a backend it sees everything, lest its answer be NaN: `_blind_as_eager` answers it.

    Raises:
        BadRequest: for a mask of another size, and where no query may see anything, as in what a model made of
            CAUSAL_ALONE.
    """
    allowed = allowed_by(mask)
    allowed = allowed[(None,) * (4 - allowed.dim())][..., : size[1]]
    if any(given not in (1, wanted) for given, wanted in zip(allowed.shape[2:], size, strict=True)):
        raise BadRequest(f"attention_mask: expected (…, {size[0]} or 1, {size[1]}); got {tuple(mask.shape)}")
    blind = ~allowed.any(-1, keepdim=True)
    if bool(blind.all()):
        raise BadRequest("attention_mask: expected one that lets a query attend to a key; got one that lets none")
    given = TensorMask((allowed | blind).expand(*allowed.shape[:2], *size))
    return given, blind.transpose(1, 2) if bool(blind.any()) else None


def _blind_as_eager(out: Tensor, value: Tensor, blind: Tensor) -> Tensor:
    """The mean of all values for queries that see nothing, as eager answers: some models read it at real positions.

    out (batch, seq, heads, head_dim), value alike with its own heads, blind (batch or 1, seq, heads or 1, 1).
    """
    mean = value.mean(1, keepdim=True).repeat_interleave(out.shape[2] // value.shape[2], 2)
    return torch.where(blind, mean, out)


def _attention(name: str, backends: Sequence[Backend], verify: bool) -> Callable[..., tuple[Tensor, None]]:
    """The function transformers calls.  What it prepares is shared by all layers and models that use it."""
    serving: dict[tuple[bool, float, float | None], Dispatcher] = {}
    recall = IdentityCache()

    @torch.compiler.assume_constant_result  # made while tracing, not by what is traced
    def ensure(causal: bool, dropout: float, scaling: float | None) -> None:
        if (causal, dropout, scaling) not in serving:
            mask = Causal() if causal else Full()
            serving[causal, dropout, scaling] = Dispatcher(
                backends, mask, dropout=dropout, scale=scaling, verify=verify
            )

    @torch.compiler.disable(reason="a mask that comes with the call is prepared outside torch.compile's graph")
    def under(kind: tuple[bool, float, float | None], q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        size = (q.shape[1], k.shape[1])
        given, blind = recall(lambda: _given(mask, size), mask, about=size)
        out = serving[kind].under(lambda: given, q, k, v, kind[1] > 0)
        return out if blind is None else _blind_as_eager(out, v, blind)

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        dropout: float = 0.0, scaling: float | None = None, is_causal: bool | None = None, **others: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """query (batch, heads, seq, head_dim), key and value alike with their own heads → (batch, seq, heads, …)."""
        _check_served(name, query, key, value, others)
        length, keys = index(query.shape[2]), index(key.shape[2])  # index: constants to torch.compile
        # As eager does: what the mask says counts, not `is_causal`, which some layers lack or have wrong.
        causal = attention_mask is not None and attention_mask.shape == CAUSAL_ALONE and keys > 1
        if causal and length < keys:
            key, value = key[:, :, :length], value[:, :, :length]  # room in a static cache that is not yet filled
        if query.shape[0] == 1 < key.shape[0]:
            query = query.expand(key.shape[0], -1, -1, -1)  # learned queries, one for all
        q, k, v = _as_autocast(*(each.transpose(1, 2) for each in (query, key, value)))
        kind = (causal, dropout, scaling)
        ensure(*kind)
        if causal or attention_mask is None:
            return serving[kind](q, k, v, dropout > 0)(q, k, v).contiguous(), None

        return under(kind, q, k, v, attention_mask).contiguous(), None

    return attend
