"""Tiny random models of every architecture of the installed transformers: found, configured and fed generically."""

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from attn_lab.integrations.transformers_models import INTERFACE, parts, words

MODELS = Path(transformers.__file__).parent / "models"
VOCABULARY, LENGTH, HEADS, HEAD_DIM = 64, 8, 4, 16
WIDTH = HEADS * HEAD_DIM
PICTURES = ("pixel_values", "pixel_values_videos")
SOUNDS = ("input_values", "input_features", "audio_values", "inputs_embeds", "hidden_states")  # or states of their size

# The whole of an attribute's name, its size.  The first that matches is taken.
SIZES: list[tuple[str, int]] = [
    (r"num_feat_extract_layers|num_(feature|conv)\w*_layers|\w*num_conv_layers", 99),  # as long as lists beside them
    (r"(\w+_)?vocab_size\w*|num_(semantic|audio)_\w*tokens|codebook_size|\w*n_codes?", VOCABULARY),
    (r"(\w+_)?(max_(source|target|text|speech)_positions|(max|n)_(position\w*|ctx))", 64),
    (r"(\w+_)?max_(seq|sequence)\w*(len|length)\w*", 64),
    (r"n_positions|block_size|context_size", 64),
    (r"(\w+_)?num_(hidden_|encoder_|decoder_|block_)?layers|(\w+_)?(n_layers?|depth|layers|num_blocks)", 2),
    (r"base_channels|upsample_groups", WIDTH),
    (r"\w+_num_key_value_heads", HEADS),
    (r"num_(key_value|kv)_heads|n_head_kv|kv_heads", 2),
    (r"(\w+_)?(num_attention_heads|num_heads|n_heads?|attention_heads)", HEADS),
    (r"qk_head_dim", 2 * HEAD_DIM),
    (r"(\w+_)?(head_dim|head_size|d_kv|kv_channels|d_head|attention_key_size|attention_value_size)", HEAD_DIM),
    (r"\w*_lora_rank|embedding_size", 16),
    (r"(n|num)_(expert_)?groups?|topk_group", 1),
    (r"(\w+_)?(num|n)(_local|_routed)?_experts", 4),
    (r"index_topk|topk_tokens", 4),
    (r"num_experts_per_tok(en)?|(\w+_)?top_?k\w*|moe_k|moe_topk", 2),
    (r"(\w+_)?(n|num)_shared_experts?", 1),
    (r"(\w+_)?sliding_window\w*|attention_chunk_size|local_attention|attention_window", 4),
    (r"image_size|(\w+_)?img_size", 16),
    (r"patch_size", 8),
    (r"(\w+_)?(intermediate_size|ffn_dim|d_ff|ff_dim|mlp_dim|n_inner|feedforward_dim|ffn_size)", 32),
    (r"(\w+_)?(ffn|mlp)_hidden_size", 32),
    (r"(\w+_)?(hidden_size|hidden_dim|d_model|embed_dim|n_embd|dim|dim_model|emb_dim|width)", WIDTH),
    (r"(\w+_)?(projection_dim|feature_size|proj_dim|output_dim|input_dim)", WIDTH),
]  # fmt: skip
NEEDED = {
    "head_dim": HEAD_DIM, "num_key_value_heads": 2, "moe_topk": 2, "num_experts_per_tok": 2, "n_routed_experts": 4,
    "n_shared_experts": 1, "vocab_size": VOCABULARY,
}  # without a default in some configurations  # fmt: skip
# What a configuration demands beyond sizes, by the folder of its modeling file; dicts are of its parts.
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 32},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "gemma3n": {
        "layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
        "intermediate_size": 32, "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4": {
        "layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
    },
    "glm5_next": {"index_topk": 4, "index_kpool": 2, "text_config": {"index_topk": 4, "index_kpool": 2}},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 32},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "qwen2_5_omni": {"vision_start_token_id": 60},
    "qwen3_omni_moe": {"vision_start_token_id": 60},
    "t5gemma2": {"dropout_rate": 0.0, "text_config": {"dropout_rate": 0.0}},
    "xmod": {"default_language": "en_XX"},
}  # fmt: skip


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
        if made.config_class is not None and not made.__name__.endswith("PreTrainedModel"):
            models.setdefault(made.config_class, []).append(made)
    for candidates in models.values():
        if not any(map(goes_through_the_interface, candidates)):
            continue
        causal = _first(candidates, "ForCausalLM", "LMHeadModel")
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
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if name.endswith(("token_id", "token_index")):
        return value if value < VOCABULARY - 8 else VOCABULARY - 8 + value % 8
    for pattern, size in SIZES:
        if re.fullmatch(pattern, name):
            return min(size, value) if value > 0 else value
    return value


def tiny_config(unit: Unit) -> PreTrainedConfig:
    return unit.model.config_class(**_tiny(unit.model.config_class(), OVERRIDES.get(str(unit).split(".")[0], {})))


def _tiny(default: PreTrainedConfig, overrides: dict[str, Any]) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    for name, value in vars(default).items():
        if name.startswith("_") or name in ("transformers_version", "architectures", "dtype"):
            continue
        if name in default.sub_configs or isinstance(value, PreTrainedConfig):
            if value is not None:
                sizes[name] = type(value)(**_tiny(value, overrides.get(name, {})))
            continue
        small = _size(name, value)
        if small is not value and small != value:
            sizes[name] = small
    layers = next((sizes[name] for name in ("num_hidden_layers", "num_layers", "n_layer") if name in sizes), None)
    for name, value in vars(default).items():
        if name.endswith(("layer_types", "layers_block_type")) and isinstance(value, list | tuple) and value:
            kinds = list(dict.fromkeys(value))
            sizes[name] = (kinds * 2)[: max(2, len(kinds))] if len(kinds) > 1 else [value[0]] * 2
            layers = len(sizes[name])
            for count in ("num_hidden_layers", "num_layers", "n_layer"):
                if hasattr(default, count):
                    sizes[count] = layers
    given = vars(default)
    if "num_key_value_heads" in sizes and given["num_key_value_heads"] == given.get("num_attention_heads"):
        sizes["num_key_value_heads"] = HEADS
    rope = getattr(default, "rope_parameters", None)
    if isinstance(rope, dict) and not any(isinstance(each, dict) for each in rope.values()):
        pairs = int(HEAD_DIM * rope.get("partial_rotary_factor", 1.0)) // 2
        sizes["rope_parameters"] = rope | {"mrope_section": [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3]}
    return sizes | {name: value for name, value in overrides.items() if not isinstance(value, dict)}


def tokens(config: PreTrainedConfig, seed: int = 0, length: int = LENGTH) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY - 16, (2, length), generator=made)
    end = getattr(config, "eos_token_id", None)  # some models read their answer there, or at the largest token
    ids[:, -1] = end if isinstance(end, int) and VOCABULARY - 16 <= end < VOCABULARY else VOCABULARY - 1
    return ids


def inputs_of(model: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """Inputs that a model of this signature may take, the likeliest first."""
    parameters = inspect.signature(model.forward).parameters
    config = model.config
    texts: dict[str, Any] = {}
    if "input_ids" in parameters:
        texts["input_ids"] = tokens(config)
        if "decoder_input_ids" in parameters:
            texts["decoder_input_ids"] = tokens(config, seed=1, length=LENGTH - 2)
        yield texts
    grid = next((name for name in parameters if name in ("grid_thw", "image_grid_thw", "grid_hws")), None)
    if grid is not None:
        size = _attribute(config, "spatial_patch_size", "patch_size") or 14
        width = 3 * size**2 * (_attribute(config, "temporal_patch_size") or 1)
        main = next(iter(parameters))
        for each in (width, WIDTH, 3 * size**2):
            patches = torch.randn(32, each, generator=torch.Generator().manual_seed(0))
            yield {main: patches, grid: torch.tensor([[1, 4, 4], [1, 4, 4]])}
    pictures = list(_pictures(config))
    sounds = list(_sounds(config))
    for name in (*PICTURES, *SOUNDS):
        if name in parameters:
            for value in pictures if name in PICTURES else sounds:
                yield {name: value}
                if texts:
                    yield texts | {name: value}
                if "decoder_input_ids" in parameters:
                    yield {name: value, "decoder_input_ids": tokens(config, seed=1, length=LENGTH - 2)}


def _attribute(config: PreTrainedConfig, *names: str) -> Any:
    for each in (config, *(getattr(config, part) for part in config.sub_configs)):
        for name in names:
            if getattr(each, name, None) is not None:
                return getattr(each, name)
    return None


def _pictures(config: PreTrainedConfig) -> Iterator[Tensor]:
    size = _attribute(config, "image_size", "img_size") or 32
    height, width = size if isinstance(size, list | tuple) else (size, size)
    channels = _attribute(config, "num_channels", "in_channels", "in_chans", "num_channels_in") or 3
    made = torch.Generator().manual_seed(0)
    yield torch.randn(2, channels, height, width, generator=made)
    yield torch.randn(2, channels, 64, 64, generator=made)
    frames = _attribute(config, "num_frames", "frames_per_clip") or 4
    yield torch.randn(2, frames, channels, height, width, generator=made)


def _sounds(config: PreTrainedConfig) -> Iterator[Tensor]:
    made = torch.Generator().manual_seed(0)
    bins = _attribute(config, "num_mel_bins", "feature_size", "input_dim", "feature_projection_input_dim") or 32
    positions = _attribute(config, "max_source_positions") or 16
    width = _attribute(config, "hidden_size", "d_model") or 32
    yield torch.randn(2, 4000, generator=made)
    yield torch.randn(2, bins, 2 * positions, generator=made)
    yield torch.randn(2, 32, bins, generator=made)
    yield torch.randn(2, LENGTH, width, generator=made)
    yield torch.randn(2, 1, 4000, generator=made)
