"""Tiny random models of every architecture of the installed transformers: found, configured and fed generically."""

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
import yaml
from transformers import PreTrainedConfig, PreTrainedModel

from attn_lab.integrations.transformers_models import INTERFACE, parts, words

DEMANDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
MODELS = Path(transformers.__file__).parent / "models"
CAUSAL = ("ForCausalLM", "LMHeadModel")
VOCABULARY, LENGTH, HEADS, HEAD_DIM = 64, 8, 4, 16
WIDTH = HEADS * HEAD_DIM

LAYERS = ("num_hidden_layers", "num_layers", "n_layer")
# The whole of an attribute's name, its size.  The first that matches is taken.
SIZES: list[tuple[str, int]] = [
    (r"num_feat_extract_layers|num_(feature|conv)\w*_layers|\w*num_conv_layers", 99),  # as long as lists beside them
    (r"(\w+_)?vocab_size\w*|num_(semantic|audio)_\w*tokens|codebook_size|\w*n_codes?", VOCABULARY),
    (r"(\w+_)?(max_(source|target|text|speech)_positions|(max|n)_(position\w*|ctx))", 64),
    (r"(\w+_)?max_(seq|sequence)\w*(len|length)\w*", 64),
    (r"n_positions|block_size|context_size", 64),
    (r"(\w+_)?num_(hidden_|encoder_|decoder_|block_)?layers|(\w+_)?(n_layers?|depth|layers|num_blocks)", 2),
    (r"(n|num)_(expert_)?groups?|topk_group", 1),
    (r"(\w+_)?(num|n)(_local|_routed)?_experts", 4),
    (r"index_topk|topk_tokens", 4),
    (r"num_experts_per_tok(en)?|(\w+_)?top_?k\w*|moe_k|moe_topk", 2),
    (r"(\w+_)?(n|num)_shared_experts?", 1),
    (r"(\w+_)?sliding_window\w*|attention_chunk_size|local_attention|attention_window", 4),
    (r"image_size|(\w+_)?img_size", 16),
    (r"patch_size", 8),
    (r"base_channels|upsample_groups", WIDTH),
    (r"\w+_num_key_value_heads", HEADS),
    (r"num_(key_value|kv)_heads|n_head_kv|kv_heads", 2),
    (r"(\w+_)?(num_attention_heads|num_heads|n_heads?|attention_heads)", HEADS),
    (r"qk_head_dim", 2 * HEAD_DIM),
    (r"(\w+_)?(head_dim|head_size|d_kv|kv_channels|d_head|attention_key_size|attention_value_size)", HEAD_DIM),
    (r"\w*_lora_rank|embedding_size", 16),
    (r"(\w+_)?(intermediate_size|ffn_dim|d_ff|ff_dim|mlp_dim|n_inner|feedforward_dim|ffn_size)", 32),
    (r"(\w+_)?(ffn|mlp)_hidden_size", 32),
    (r"(\w+_)?(hidden_size|hidden_dim|d_model|embed_dim|n_embd|dim|dim_model|emb_dim|width)", WIDTH),
    (r"(\w+_)?(projection_dim|feature_size|proj_dim|output_dim|input_dim)", WIDTH),
]  # fmt: skip
NEEDED = {
    "head_dim": HEAD_DIM, "num_key_value_heads": 2, "moe_topk": 2, "num_experts_per_tok": 2, "n_routed_experts": 4,
    "n_shared_experts": 1, "vocab_size": VOCABULARY,
}  # without a default in some configurations  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """One configuration class of one modeling file, and the model that is most of what the file makes of it."""

    module: str
    model: type[PreTrainedModel]

    def __str__(self) -> str:
        return f"{self.module.rsplit('.', 1)[0].removeprefix('transformers.models.')}.{self.model.__name__}"


def modeling_modules() -> list[str]:
    """Names of the modeling modules of which something goes through AttentionInterface, by their text alone."""
    files = sorted(MODELS.glob("*/modeling_*.py"))
    return [f"transformers.models.{file.parent.name}.{file.stem}" for file in files
            if "ALL_ATTENTION_FUNCTIONS" in file.read_text(encoding="utf-8")]  # fmt: skip


def units_of(module: str) -> Iterator[Unit]:
    """A model for each configuration class: with a language model's head where there is one."""
    loaded = importlib.import_module(module)
    models: dict[type, list[type[PreTrainedModel]]] = {}
    for made in vars(loaded).values():
        if not (inspect.isclass(made) and issubclass(made, PreTrainedModel) and made.__module__ == module):
            continue
        if made.config_class is not None and "PreTrainedModel" not in made.__name__:
            models.setdefault(made.config_class, []).append(made)
    for candidates in models.values():
        if not any(map(goes_through_the_interface, candidates)):
            continue
        causal = _first(candidates, *CAUSAL)
        across = _first(candidates, "ForConditionalGeneration")
        other = _first(candidates, "ForMaskedLM", "Model", "")
        for made in dict.fromkeys(filter(None, (causal, across) if causal or across else (other,))):
            yield Unit(module, made)
        if causal and other and other.__name__.endswith("ForMaskedLM"):
            yield Unit(module, other)


def goes_through_the_interface(model: type[PreTrainedModel]) -> bool:
    """Whether its own parts do, or it has parts with configurations of their own, which may."""
    return bool(model.config_class.sub_configs) or any(words(part) & INTERFACE for part in parts(model))


def _first(candidates: list[type[PreTrainedModel]], *ends: str) -> type[PreTrainedModel] | None:
    return next((made for end in ends for made in candidates if made.__name__.endswith(end)), None)


def _size(name: str, value: Any) -> Any:
    """The tiny size of an attribute, or the value it has."""
    if name.endswith(
        ("dropout", "_drop", "pdrop", "layerdrop", "dropout_rate", "dropout_prob", "drop_path_rate", "dropout_p")
    ):
        return 0.0 if isinstance(value, float | int) and not isinstance(value, bool) else value
    if value is None and name in NEEDED:
        return NEEDED[name]
    if name == "image_size" and isinstance(value, list | tuple):
        return [_size(name, each) for each in value]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if name.endswith(("token_id", "token_index")):
        return value if value < VOCABULARY - 8 else VOCABULARY - 8 + value % 8
    for pattern, size in SIZES:
        if re.fullmatch(pattern, name):
            return min(size, value) if value > 0 else value
    return value


def tiny_config(unit: Unit) -> PreTrainedConfig:
    made = unit.model.config_class
    sizes = _tiny(made())
    if unit.model.__name__.endswith(CAUSAL) and hasattr(made(), "is_decoder"):
        sizes["is_decoder"] = True
    return made(**sizes)


def _tiny(default: PreTrainedConfig) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    for name, value in vars(default).items():
        if name.startswith("_") or name in ("transformers_version", "architectures", "dtype"):
            continue
        if name in default.sub_configs or isinstance(value, PreTrainedConfig):
            if value is not None:
                sizes[name] = type(value)(**_tiny(value))
            continue
        small = _size(name, value)
        if small is not value and small != value:
            sizes[name] = small
    for name, value in vars(default).items():
        if name.endswith(("layer_types", "layers_block_type")) and isinstance(value, list | tuple) and value:
            kinds = list(dict.fromkeys(value))
            sizes[name] = (kinds * 2)[: max(2, len(kinds))] if len(kinds) > 1 else [value[0]] * 2
            sizes |= {count: len(sizes[name]) for count in LAYERS if hasattr(default, count)}
    if vars(default).get("_out_features") and not sizes.keys() & set(LAYERS):
        sizes["out_features"] = default.out_features  # of a backbone
    given = vars(default)
    if "num_key_value_heads" in sizes and given["num_key_value_heads"] == given.get("num_attention_heads"):
        sizes["num_key_value_heads"] = HEADS
    rope = getattr(default, "rope_parameters", None)
    if rope and isinstance(rope, dict) and not any(isinstance(each, dict) for each in rope.values()):
        pairs = int(HEAD_DIM * rope.get("partial_rotary_factor", 1.0)) // 2
        sizes["rope_parameters"] = rope | {"mrope_section": [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3]}
    return sizes | DEMANDS["config"].get(type(default).__name__, {})
