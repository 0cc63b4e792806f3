"""transformers 5: every backend as an `attn_implementation`, with the mask it needs for padded batches."""

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from operator import index
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import causal_mask_function, sdpa_mask

from attn_lab.core.backend import Attend, Backend
from attn_lab.core.errors import BadRequest
from attn_lab.layer.given import Given, Recall, allowed_by
from attn_lab.layer.names import BackendLike, backend_names, backends_named
from attn_lab.layer.serving import Serving
from attn_lab.masks.causal import Causal
from attn_lab.masks.full import Full

UNSERVED = ("softcap", "s_aux", "position_bias", "cache")  # what some models ask of attention, and no backend here has
PREPARED = "lab_prepared"
_names = {PREPARED}
_functions: WeakKeyDictionary[nn.Module, Attend] = WeakKeyDictionary()


def register() -> dict[str, str]:
    """Every backend, by its name: {"sdpa_cudnn": "lab_sdpa_cudnn", "flash2": "lab_fa2", …}.

    transformers takes a name with "flash" in it for its own, so that is "fa" here.
    """
    names = {backend: f"lab_{backend.replace('flash', 'fa')}" for backend in backend_names()}
    for backend, name in names.items():
        register_as(name, backend)
    return names


def register_as(name: str, backend: BackendLike | Sequence[BackendLike]) -> None:
    """One backend, or a list of which the first that can serves each question, under a name of your own."""
    if "flash" in name or set(name) & set("/|@"):
        raise BadRequest(f"attn_implementation: expected a name without 'flash', '/', '|' or '@', which transformers "
                         f"keeps for itself; got {name!r}")  # fmt: skip
    if name in ("", "eager") or (name in AttentionInterface().valid_keys() and name not in _names):
        raise BadRequest(f"attn_implementation: expected a name of your own; got {name!r}")
    _names.add(name)
    AttentionInterface.register(name, _attention(name, backends_named(backend)))
    AttentionMaskInterface.register(name, mask)


def _refusing(theirs: Callable[..., str]) -> Callable[..., str]:
    """What a model asks when it is given an implementation.

    One that computes attention by itself never looks the name up, and would only be given the mask that goes with it.
    """

    @wraps(theirs)
    def correct(model: PreTrainedModel, requested_attention: str | None, *others: Any, **words: Any) -> str:
        if requested_attention in _names and any(map(_by_itself, type(model).__mro__)):
            raise BadRequest(f"{type(model).__name__} computes attention by itself, not by AttentionInterface: "
                             f"expected attn_implementation='eager'; got {requested_attention!r}")  # fmt: skip
        return theirs(model, requested_attention, *others, **words)

    return correct


@cache
def _by_itself(model: type) -> bool:
    """By its file, as transformers itself tells; no where there is none to be read."""
    if not issubclass(model, PreTrainedModel) or model is PreTrainedModel:
        return False
    try:
        source = inspect.getsource(sys.modules[model.__module__])
    except (KeyError, OSError, TypeError):
        return False
    has_attention = re.search(r"^class \w*Attention\w*\(nn\.Module\):", source, re.MULTILINE)
    return bool(has_attention) and "ALL_ATTENTION_FUNCTIONS" not in source


PreTrainedModel.get_correct_attn_implementation = _refusing(PreTrainedModel.get_correct_attn_implementation)


def use(model: PreTrainedModel, attend: Attend) -> None:
    """Have all attention in `model` computed by one prepared function, for inputs of the sizes it was prepared for.

    Mask, scale and dropout are the function's.  transformers makes no mask under a name without a mask interface, nor
    waits for the device to see whether it must; a batch with a mask of its own is refused, for nobody would see it.
    """
    if model not in _functions:
        model.register_forward_pre_hook(_check_unmasked, with_kwargs=True)
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
    _check_served(PREPARED, key, value, others)
    return _functions[module](*_as_autocast(*(each.transpose(1, 2) for each in (query, key, value)))), None


def _check_served(name: str, key: Tensor, value: Tensor, others: Mapping[str, Any]) -> None:
    """Raise BadRequest for what a model asks of attention beyond attention."""
    unserved = [word for word in UNSERVED if others.get(word) is not None]
    unserved += ["output_attentions"] if others.get("output_attentions") else []
    if unserved or key.shape[-1] != value.shape[-1]:
        unserved = unserved or ["values of another head_dim than the keys"]
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
    mask_function: Callable = causal_mask_function, attention_mask: Tensor | None = None, **others: Any,
) -> Tensor | None:  # fmt: skip
    """What `attend` is given as attention_mask: None where its `is_causal` says it all, else bool, True = may attend.

    Padding on the right needs none under a causal mask: what follows a token is not seen by it.  A padded query that
    would see nothing sees everything instead, lest it be NaN; its answer is nobody's.
    """
    plain = others.get("allow_is_causal_skip", True) and mask_function is causal_mask_function
    if plain and q_length == kv_length:
        if attention_mask is None:
            return None
        padding = attention_mask.bool()
        same = padding.shape[-1] == kv_length
        if same and not torch.compiler.is_compiling() and bool((padding[:, 1:] <= padding[:, :-1]).all()):
            return None
    allowed = sdpa_mask(
        batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset, kv_offset=kv_offset,
        mask_function=mask_function, attention_mask=attention_mask, **others,
    )  # fmt: skip
    return None if allowed is None else allowed | ~allowed.any(-1, keepdim=True)


def _attention(name: str, backends: Sequence[Backend]) -> Callable[..., tuple[Tensor, None]]:
    """The function transformers calls.  What it prepares is shared by all layers and models that use it."""
    serving: dict[tuple[bool, float, float | None], Serving] = {}
    recall = Recall()

    @torch.compiler.assume_constant_result  # made while tracing, not by what is traced
    def ensure(causal: bool, dropout: float, scaling: float | None) -> None:
        if (causal, dropout, scaling) not in serving:
            mask = Causal() if causal else Full()
            serving[causal, dropout, scaling] = Serving(backends, mask, dropout=dropout, scale=scaling)

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        dropout: float = 0.0, scaling: float | None = None, is_causal: bool | None = None, **others: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """query (batch, heads, seq, head_dim), key and value alike with their own heads → (batch, seq, heads, …)."""
        _check_served(name, key, value, others)
        length, keys = index(query.shape[2]), index(key.shape[2])  # index: constants to torch.compile
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if attention_mask is None and causal and 1 < length < keys:
            key, value = key[:, :, :length], value[:, :, :length]  # room in a static cache that is not yet filled
        q, k, v = _as_autocast(*(each.transpose(1, 2) for each in (query, key, value)))
        kind = (bool(causal) and length > 1, dropout, scaling)
        ensure(*kind)
        if attention_mask is None:
            return serving[kind](q, k, v, dropout > 0)(q, k, v), None

        def given() -> Given:
            return recall(lambda: Given(allowed_by(attention_mask)[..., :keys]), attention_mask, about=keys)

        return serving[kind].under(given, q, k, v, dropout > 0), None

    return attend
