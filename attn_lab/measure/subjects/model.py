"""A whole decoder with random weights, trained as in earnest: next-token loss, its gradients, AdamW."""

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from attn_lab.core.backend import AttentionFn, Backend
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine
from attn_lab.core.mask import Mask
from attn_lab.core.oracle import oracle
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.measure.attention_timer import AttentionTimer
from attn_lab.measure.prepared_case import Answer, PreparedCase, Subject
from attn_lab.measure.subjects._decoder import Decoder, cast, checkpointed, cotangent

CHECKED = {"llama": ("q_proj", "k_proj", "v_proj", "embed_tokens"), "gpt2": ("c_attn", "wte")}


@dataclass(frozen=True)
class Model(Decoder, Subject):
    """`checkpoint`: keep each layer's input alone, and compute the rest again for the backward.

    `out` is the loss of each token, whose mean is trained on.  It is proven right by its losses, and by the gradients
    of all layers' qkv projections and of the embedding, against the same model in float64 with the oracle for attention
    (transformers computes norms and rotations in float32 all the same).  What an error may be is measured by the same
    model, in the case's own precision, with the oracle.  Each gradient is divided by its largest exact value first, for
    what rounding near 1 costs to be no excuse for those near 1e-5; losses are less what a guess costs, and so of the
    size of the logits that were rounded.
    """

    checkpoint: bool = False

    def __post_init__(self) -> None:
        Decoder.__post_init__(self)
        if not isinstance(self.checkpoint, bool):
            raise BadRequest(f"subject.checkpoint: expected true or false; got {self.checkpoint!r}")

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
        self,
        request: Request,
        backend: Backend,
        attend: AttentionFn,
        machine: Machine,
        *,
        seed: int,
        checked_slices: int,
    ) -> PreparedCase:
        shape, device = request.shape, machine.device
        model = self.made(shape, device, seed).requires_grad_(request.needs_backward)
        if self.checkpoint:
            checkpointed(model)
        spans = AttentionTimer(device)
        use(model, spans.around(attend))
        inputs, targets = self.tokens(shape, device, seed)
        precision = getattr(torch, shape.dtype)
        leaves = dict(model.named_parameters())

        def found(dtype: torch.dtype) -> Answer:
            reference = _reference(self, shape, request.mask, device, seed, dtype, request.needs_backward)  # type: ignore[arg-type]
            return {name: tensor.to(device) for name, tensor in reference.items()}

        def cut(whole: Answer) -> Answer:
            parts = {"out": whole["out"].flatten().double() - math.log(self.vocab_size)}
            if request.needs_backward:
                exact = found(torch.float64)
                for part in CHECKED[self.family]:
                    names = [f"d{name}" for name in _checked(self.family, leaves) if name.endswith(f"{part}.weight")]
                    parts[f"d{part}"] = torch.cat([_scaled(whole[name], exact[name]).flatten() for name in names])
            return parts

        return PreparedCase(
            request=request, machine=machine, backend=backend, leaves=leaves,
            forward=lambda: self.losses(model, precision, inputs, targets), cotangent=cotangent(shape, device),
            flops=self.flops(shape, request.mask), cut=cut, reference=lambda dtype: cut(found(dtype)),
            parameters=tuple(leaves.values()), recomputes=self.checkpoint, spans=spans, module=model,
        )  # fmt: skip


@lru_cache(maxsize=4)  # the exact one and the plain one, which all rivals at one shape are held against, of two shapes
def _reference(
    subject: Model, shape: Shape, mask: Mask, device: str, seed: int, dtype: torch.dtype, needs_backward: bool
) -> Answer:
    """Losses and checked gradients of the whole batch with the oracle, one batch element at a time; on the host."""
    model = cast(subject.made(shape, device, seed), subject.stored(dtype))
    checkpointed(model)
    weights = _checked(subject.family, dict(model.named_parameters()))
    model.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(needs_backward)
    inputs, targets = subject.tokens(shape, device, seed)
    start, heads = cotangent(shape, device), torch.arange(shape.num_heads, device=device)
    outs, sums = [], {f"d{name}": torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    for batch in range(shape.batch_size):
        rows = slice(batch, batch + 1)
        use(model, oracle(mask, shape, torch.tensor([batch], device=device), heads))
        losses = subject.losses(model, dtype, inputs[rows], targets[rows])
        outs.append(losses.detach())
        if needs_backward:
            each = torch.autograd.grad(losses, tuple(weights.values()), start[rows].to(losses.dtype))
            for total, gradient in zip(sums.values(), each, strict=True):
                total += gradient
    reference = torch.promote_types(dtype, torch.float32)
    gradients = {name: total.to("cpu", reference) for name, total in sums.items() if needs_backward}
    return {"out": torch.cat(outs).cpu(), **gradients}


def _checked(family: str, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose gradients are compared, by name: in all layers, for a fault in one shows best there."""
    return {name: each for name, each in parameters.items() if name.split(".")[-2] in CHECKED[family]
            and name.endswith("weight")}  # fmt: skip


def _scaled(gradient: Tensor, exact: Tensor) -> Tensor:
    """Divided by the largest of the exact ones; as it is where those are all zero, as of one key alone."""
    largest = exact.abs().max()
    return gradient.double() / torch.where(largest > 0, largest, 1)


def use(model: nn.Module, attend: AttentionFn) -> None:
    from attn_lab.integrations import transformers  # here: it imports transformers, which takes seconds

    transformers.use(model, attend)
