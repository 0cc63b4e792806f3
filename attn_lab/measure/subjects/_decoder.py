"""A decoder of transformers with random weights: how it is made, what it is fed, what it loses and what it costs."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attn_lab.core.errors import BadRequest
from attn_lab.core.flops import attention_flops, linear_flops, projection_flops
from attn_lab.core.mask import Mask
from attn_lab.core.shape import Shape

FAMILIES = ("llama", "gpt2")
PRECISIONS = ("pure", "autocast")
INITIAL = 0.02  # standard deviation of all weights: GPT-2's, and what transformers gives a Llama


@dataclass(frozen=True)
class Decoder:
    """Width, heads and length are the shape's; family, depth, mlp and vocabulary its own.

    family      llama (rotary positions, gated mlp, untied head) or gpt2 (learned positions, tied head)
    layers      how many
    vocab_size  of tokens, which are drawn evenly
    mlp         its inner width; null: 8/3 emb_dim in multiples of 256 for llama, 4 emb_dim for gpt2
    precision   pure: weights, gradients and AdamW's moments in the shape's dtype, the least that trains at all;
                autocast: all of them in float32, products and attention in the shape's dtype
    """

    family: str = "llama"
    layers: int = 12
    vocab_size: int = 32000
    mlp: int | None = None
    precision: str = "pure"
    packages: ClassVar = ("transformers",)

    def __post_init__(self) -> None:
        for name, valid in (("family", FAMILIES), ("precision", PRECISIONS)):
            if getattr(self, name) not in valid:
                raise BadRequest(f"subject.{name}: expected one of {', '.join(valid)}; got {getattr(self, name)!r}")
        for name, least in (("layers", 1), ("vocab_size", 2), ("mlp", 1)):
            value = getattr(self, name)
            if (value is not None or name != "mlp") and (type(value) is not int or value < least):
                raise BadRequest(f"subject.{name}: expected a whole number of at least {least}; got {value!r}")

    def flops(self, shape: Shape, mask: Mask) -> Mapping[str, int]:
        """What is looked up, added or normalised is not counted, nor what a checkpoint computes again."""
        matrices = self.layers * (3 if self.family == "llama" else 2) * shape.emb_dim * self.inner(shape)
        rest = linear_flops(shape, matrices + shape.emb_dim * self.vocab_size)
        core, around = attention_flops(shape, mask), projection_flops(shape)
        return {name: self.layers * (core[name] + around[name]) + rest[name] for name in rest}

    def inner(self, shape: Shape) -> int:
        if self.mlp is not None:
            return self.mlp
        return 4 * shape.emb_dim if self.family == "gpt2" else math.ceil(shape.emb_dim * 8 / 3 / 256) * 256

    def stored(self, precision: torch.dtype) -> torch.dtype:
        """The dtype of weights that compute in `precision`."""
        return torch.float32 if self.precision == "autocast" and precision.itemsize < 4 else precision

    def made(self, shape: Shape, device: str, seed: int) -> nn.Module:
        """The same weights for the same words, as the case has them, in training mode."""
        with torch.device(device):
            model = self._transformer(shape)
        generator = torch.Generator(device).manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=INITIAL, generator=generator)
        return cast(model, self.stored(getattr(torch, shape.dtype))).train()

    def _transformer(self, shape: Shape) -> nn.Module:
        import transformers

        if self.family == "gpt2":
            return transformers.GPT2LMHeadModel(transformers.GPT2Config(
                vocab_size=self.vocab_size, n_positions=shape.seq_len, n_embd=shape.emb_dim, n_layer=self.layers,
                n_head=shape.num_heads, n_inner=self.inner(shape), resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                use_cache=False, bos_token_id=None, eos_token_id=None,
            ))  # fmt: skip
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=self.vocab_size, hidden_size=shape.emb_dim, intermediate_size=self.inner(shape),
            num_hidden_layers=self.layers, num_attention_heads=shape.num_heads, head_dim=shape.head_dim,
            num_key_value_heads=shape.num_kv_heads, max_position_embeddings=shape.seq_len, use_cache=False,
            tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
        ))  # fmt: skip

    def tokens(self, shape: Shape, device: str, seed: int) -> tuple[Tensor, Tensor]:
        """Tokens (batch, seq), and for each the one that follows it."""
        generator = torch.Generator(device).manual_seed(seed)
        size = (shape.batch_size, shape.seq_len + 1)
        drawn = torch.randint(self.vocab_size, size, generator=generator, device=device)
        return drawn[:, :-1], drawn[:, 1:]

    def losses(self, model: nn.Module, precision: torch.dtype, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each token (batch, seq), in at least float32."""
        casts = self.stored(precision) != precision
        with torch.autocast(inputs.device.type, precision) if casts else nullcontext():
            logits = model(inputs).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(targets)


def cotangent(shape: Shape, device: str) -> Tensor:
    """What makes a mean of the losses; in float16 scaled up by a power of two, lest gradients be zero."""
    count = shape.batch_size * shape.seq_len
    scale = 2 ** math.ceil(math.log2(count)) if shape.dtype == "float16" else 1
    return torch.full((shape.batch_size, shape.seq_len), scale / count, device=device)


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Its parameters alone: what rotations are made from stays in float32, as where a checkpoint is loaded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def checkpointed(model: nn.Module) -> None:
    """Of each layer its input alone is kept (transformers has another name for this in each release)."""
    (layers,) = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
