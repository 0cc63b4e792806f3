"""Weights of torch.nn.MultiheadAttention, which packs q, k and v just so, under this layer's names and back."""

from collections.abc import Mapping

from torch import Tensor

from attn_lab.core.errors import BadRequest
from attn_lab.layer.attention import Attention

NAMES = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias", "out_proj.weight": "out.weight",
         "out_proj.bias": "out.bias"}  # fmt: skip


def state_from_multihead(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For Attention(...).load_state_dict.  Raises BadRequest for kdim, vdim or bias_kv, which it has not."""
    foreign = sorted(set(state) - set(NAMES))
    if foreign:
        raise BadRequest(f"nn.MultiheadAttention: expected only {', '.join(NAMES)}; got also {', '.join(foreign)}")
    return {NAMES[name]: value for name, value in state.items()}


def state_to_multihead(layer: Attention) -> dict[str, Tensor]:
    """For nn.MultiheadAttention(...).load_state_dict.  Raises BadRequest for what it has no place for."""
    has = {
        "rope": layer.rope is not None,
        "qk_norm": layer.q_norm is not None,
        "num_kv_heads": layer.num_kv_heads != layer.num_heads,
        "head_dim": layer.num_heads * layer.head_dim != layer.emb_dim,
    }
    if any(has.values()):
        raise BadRequest(f"nn.MultiheadAttention has no {', '.join(name for name, there in has.items() if there)}")
    state = layer.state_dict()
    return {theirs: state[ours] for theirs, ours in NAMES.items() if ours in state}
