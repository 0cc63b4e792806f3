"""A whole decoder with random weights, trained as in earnest: next-token loss, its gradients, AdamW."""

import importlib.util
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attn_lab.bench.oracle import oracle
from attn_lab.bench.spans import Spans
from attn_lab.bench.trial import Answer, Subject, Trial
from attn_lab.core.backend import Attend, Backend, Request
from attn_lab.core.errors import BadRequest
from attn_lab.core.flops import attention_flops, linear_flops, projection_flops
from attn_lab.core.machine import Machine
from attn_lab.core.mask import Mask
from attn_lab.core.shape import Shape

CHECKED = {"llama": ("q_proj", "k_proj", "v_proj", "embed_tokens"), "gpt2": ("c_attn", "wte")}
PRECISIONS = ("pure", "autocast")
INITIAL = 0.02  # standard deviation of all weights: GPT-2's, and what transformers gives a Llama


@dataclass(frozen=True)
class Model(Subject):
    """A transformers model: width, heads and length are the shape's; family, depth, mlp and vocabulary its own.

    family      llama (rotary positions, gated mlp, untied head) or gpt2 (learned positions, tied head)
    layers      how many
    vocab_size  of tokens, which are drawn evenly
    mlp         its inner width; null: 8/3 emb_dim in multiples of 256 for llama, 4 emb_dim for gpt2
    checkpoint  keep each layer's input alone, and compute the rest again for the backward
    precision   pure: weights, gradients and AdamW's moments in the case's dtype, the least that trains at all;
                autocast: all of them in float32, products and attention in the case's dtype

    `out` is the loss of each token, whose mean is trained on.  It is proven right by its losses, and by the gradients
    of all layers' qkv projections and of the embedding, against the same model in float64 with the oracle for attention
    (transformers computes norms and rotations in float32 all the same).  What an error may be is measured by the same
    model, in the case's own precision, with the oracle.  Each gradient is divided by its largest exact value first, for
    what rounding near 1 costs to be no excuse for those near 1e-5; losses are less what a guess costs, and so of the
    size of the logits that were rounded.
    """

    family: str = "llama"
    layers: int = 12
    vocab_size: int = 32000
    mlp: int | None = None
    checkpoint: bool = False
    precision: str = "pure"
    packages: ClassVar = ("transformers",)

    def __post_init__(self) -> None:
        for name, valid in (("family", tuple(CHECKED)), ("precision", PRECISIONS), ("checkpoint", (True, False))):
            if getattr(self, name) not in valid:
                expected = ", ".join(map(str, valid)).replace("True, False", "true, false")
                raise BadRequest(f"subject.{name}: expected one of {expected}; got {getattr(self, name)!r}")
        for name, least in (("layers", 1), ("vocab_size", 2), ("mlp", 1)):
            value = getattr(self, name)
            if (value is not None or name != "mlp") and (type(value) is not int or value < least):
                raise BadRequest(f"subject.{name}: expected a whole number of at least {least}; got {value!r}")

    def check(self, request: Request) -> None:
        shape = request.shape
        if shape.offset:
            raise BadRequest(f"shape.seq_len_kv: expected seq_len={shape.seq_len}, for subject=model is "
                             f"self-attention; got {shape.seq_len_kv} (subject=kernel takes both)")  # fmt: skip
        if self.family == "gpt2" and (shape.group_size, shape.head_dim * shape.num_heads) != (1, shape.emb_dim):
            raise BadRequest(f"subject.family=gpt2: expected as many key/value heads as heads, of emb_dim/num_heads "
                             f"each; got {shape} (subject.family=llama takes them)")  # fmt: skip
        if self.family == "llama" and shape.head_dim % 2:
            raise BadRequest(f"subject.family=llama: expected an even head_dim to rotate; got {shape.head_dim}")
        if importlib.util.find_spec("transformers") is None:
            raise BadRequest("subject=model: needs transformers, not installed (pip install 'attn-lab[hf]')")

    def stage(
        self, request: Request, backend: Backend, attend: Attend, machine: Machine, *, seed: int, slices: int
    ) -> Trial:
        shape, device = request.shape, machine.device
        model = self._made(shape, device, seed).requires_grad_(request.needs_backward)
        if self.checkpoint:
            _checkpointed(model)
        spans = Spans(device)
        use(model, spans.around(attend))
        inputs, targets = self._tokens(shape, device, seed)
        precision = getattr(torch, shape.dtype)
        leaves = dict(model.named_parameters())

        def found(dtype: torch.dtype) -> Answer:
            kept = _reference(self, shape, request.mask, device, seed, dtype, request.needs_backward)  # type: ignore[arg-type]
            return {name: tensor.to(device) for name, tensor in kept.items()}

        def cut(whole: Answer) -> Answer:
            parts = {"out": whole["out"].flatten().double() - math.log(self.vocab_size)}
            if request.needs_backward:
                exact = found(torch.float64)
                for part in CHECKED[self.family]:
                    names = [f"d{name}" for name in _checked(self.family, leaves) if name.endswith(f"{part}.weight")]
                    parts[f"d{part}"] = torch.cat([_scaled(whole[name], exact[name]).flatten() for name in names])
            return parts

        return Trial(
            request=request, machine=machine, backend=backend, leaves=leaves,
            forward=lambda: self._losses(model, precision, inputs, targets), cotangent=_cotangent(shape, device),
            flops=self._flops(shape, request.mask), cut=cut, reference=lambda dtype: cut(found(dtype)),
            parameters=tuple(leaves.values()), recomputes=self.checkpoint, spans=spans, module=model,
        )  # fmt: skip

    def _flops(self, shape: Shape, mask: Mask) -> Mapping[str, int]:
        """What is looked up, added or normalised is not counted, nor what a checkpoint computes again."""
        inner = self.layers * (3 if self.family == "llama" else 2) * shape.emb_dim * self._mlp(shape)
        rest = linear_flops(shape, inner + shape.emb_dim * self.vocab_size)
        core, around = attention_flops(shape, mask), projection_flops(shape)
        return {name: self.layers * (core[name] + around[name]) + rest[name] for name in rest}

    def _mlp(self, shape: Shape) -> int:
        if self.mlp is not None:
            return self.mlp
        return 4 * shape.emb_dim if self.family == "gpt2" else math.ceil(shape.emb_dim * 8 / 3 / 256) * 256

    def _stored(self, precision: torch.dtype) -> torch.dtype:
        """The dtype of weights that compute in `precision`."""
        return torch.float32 if self.precision == "autocast" and precision.itemsize < 4 else precision

    def _made(self, shape: Shape, device: str, seed: int) -> nn.Module:
        """The same weights for the same words, as the case has them, in training mode."""
        with torch.device(device):
            model = self._transformer(shape)
        generator = torch.Generator(device).manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=INITIAL, generator=generator)
        return _cast(model, self._stored(getattr(torch, shape.dtype))).train()

    def _transformer(self, shape: Shape) -> nn.Module:
        import transformers

        if self.family == "gpt2":
            return transformers.GPT2LMHeadModel(transformers.GPT2Config(
                vocab_size=self.vocab_size, n_positions=shape.seq_len, n_embd=shape.emb_dim, n_layer=self.layers,
                n_head=shape.num_heads, n_inner=self._mlp(shape), resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                use_cache=False, bos_token_id=None, eos_token_id=None,
            ))  # fmt: skip
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=self.vocab_size, hidden_size=shape.emb_dim, intermediate_size=self._mlp(shape),
            num_hidden_layers=self.layers, num_attention_heads=shape.num_heads, head_dim=shape.head_dim,
            num_key_value_heads=shape.num_kv_heads, max_position_embeddings=shape.seq_len, use_cache=False,
            tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
        ))  # fmt: skip

    def _tokens(self, shape: Shape, device: str, seed: int) -> tuple[Tensor, Tensor]:
        """Tokens (batch, seq), and for each the one that follows it."""
        generator = torch.Generator(device).manual_seed(seed)
        size = (shape.batch_size, shape.seq_len + 1)
        drawn = torch.randint(self.vocab_size, size, generator=generator, device=device)
        return drawn[:, :-1], drawn[:, 1:]

    def _losses(self, model: nn.Module, precision: torch.dtype, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each token (batch, seq), in at least float32."""
        casts = self._stored(precision) != precision
        with torch.autocast(inputs.device.type, precision) if casts else nullcontext():
            logits = model(inputs).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(targets)


@lru_cache(maxsize=4)  # the exact one and the plain one, which all rivals at one shape are held against, of two shapes
def _reference(
    subject: Model, shape: Shape, mask: Mask, device: str, seed: int, dtype: torch.dtype, needs_backward: bool
) -> Answer:
    """Losses and checked gradients of the whole batch with the oracle, one batch element at a time; on the host."""
    model = _cast(subject._made(shape, device, seed), subject._stored(dtype))
    _checkpointed(model)
    weights = _checked(subject.family, dict(model.named_parameters()))
    model.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(needs_backward)
    inputs, targets = subject._tokens(shape, device, seed)
    cotangent, heads = _cotangent(shape, device), torch.arange(shape.num_heads, device=device)
    outs, sums = [], {f"d{name}": torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    for batch in range(shape.batch_size):
        rows = slice(batch, batch + 1)
        use(model, oracle(mask, shape, torch.tensor([batch], device=device), heads))
        losses = subject._losses(model, dtype, inputs[rows], targets[rows])
        outs.append(losses.detach())
        if needs_backward:
            each = torch.autograd.grad(losses, tuple(weights.values()), cotangent[rows].to(losses.dtype))
            for total, gradient in zip(sums.values(), each, strict=True):
                total += gradient
    kept = torch.promote_types(dtype, torch.float32)
    gradients = {name: total.to("cpu", kept) for name, total in sums.items() if needs_backward}
    return {"out": torch.cat(outs).cpu(), **gradients}


def _checked(family: str, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose gradients are compared, by name: in all layers, for a fault in one shows best there."""
    return {name: each for name, each in parameters.items() if name.split(".")[-2] in CHECKED[family]
            and name.endswith("weight")}  # fmt: skip


def _scaled(gradient: Tensor, exact: Tensor) -> Tensor:
    """Divided by the largest of the exact ones; as it is where those are all zero, as of one key alone."""
    largest = exact.abs().max()
    return gradient.double() / torch.where(largest > 0, largest, 1)


def _cotangent(shape: Shape, device: str) -> Tensor:
    """What makes a mean of the losses; in float16 scaled up by a power of two, lest gradients be zero."""
    count = shape.batch_size * shape.seq_len
    scale = 2 ** math.ceil(math.log2(count)) if shape.dtype == "float16" else 1
    return torch.full((shape.batch_size, shape.seq_len), scale / count, device=device)


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Its parameters alone: what rotations are made from stays in float32, as where a checkpoint is loaded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _checkpointed(model: nn.Module) -> None:
    """Of each layer its input alone is kept (transformers has another name for this in each release)."""
    (layers,) = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def use(model: nn.Module, attend: Attend) -> None:
    from attn_lab.integrations import transformers  # here: it imports transformers, which takes seconds

    transformers.use(model, attend)
