"""An attention layer: qkv projection → attention → output projection, a real nn.Module with parameters."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attn_lab.core.backend import AttentionFn, Backend
from attn_lab.core.errors import BadRequest
from attn_lab.core.flops import attention_flops, projection_flops
from attn_lab.core.machine import Machine
from attn_lab.core.oracle import oracle
from attn_lab.core.request import Request
from attn_lab.measure.attention_timer import AttentionTimer
from attn_lab.measure.inputs import check_inputs, draw
from attn_lab.measure.prepared_case import Answer, PreparedCase, Subject
from attn_lab.nn.attention import Attention


@dataclass(frozen=True)
class Layer(Subject):
    bias: bool = False
    inputs: str = "randn"

    def __post_init__(self) -> None:
        check_inputs(self.inputs)
        if not isinstance(self.bias, bool):
            raise BadRequest(f"subject.bias: expected true or false; got {self.bias!r}")

    def check(self, request: Request) -> None:
        shape = request.shape
        if shape.offset:
            raise BadRequest(
                f"shape.seq_len_kv: expected seq_len={shape.seq_len}, for subject=layer is self-attention; "
                f"got {shape.seq_len_kv} (subject=kernel takes both)"
            )

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
        shape = request.shape
        dtype = getattr(torch, shape.dtype)
        layer = Attention(
            shape.emb_dim, shape.num_heads, shape.num_kv_heads, head_dim=shape.head_dim, bias=self.bias,
            backend=backend, mask=request.mask,
        )  # fmt: skip
        layer = layer.to(machine.device, dtype).requires_grad_(request.needs_backward)
        generator = torch.Generator(machine.device).manual_seed(seed)
        for parameter in layer.parameters():
            with torch.no_grad():
                parameter.normal_(std=shape.emb_dim**-0.5, generator=generator)  # activations stay near unit variance

        size = (shape.batch_size, shape.seq_len, shape.emb_dim)
        x = draw(self.inputs, size, generator, dtype).requires_grad_(request.needs_backward)
        cotangent = draw(self.inputs, size, generator, dtype)
        spans = AttentionTimer(machine.device)
        layer.use(spans.around(attend), x)
        # Batch elements are independent, so that one alone is an exact check of itself; the last, where overruns show.
        batch = slice(shape.batch_size - 1, shape.batch_size)

        def cut(whole: Answer) -> Answer:
            return {name: whole[name][batch].flatten() for name in ("out", "dx") if name in whole}

        def reference(precision: torch.dtype) -> Answer:
            exact = copy.deepcopy(layer).to(precision)
            part = x.detach()[batch].to(precision, copy=True).requires_grad_(request.needs_backward)
            heads = torch.arange(shape.num_heads, device=machine.device)
            exact.use(oracle(request.mask, shape, torch.tensor([batch.start], device=machine.device), heads), part)
            out = exact(part)
            found: Mapping[str, Tensor] = {"out": out.detach().flatten()}
            if not request.needs_backward:
                return found
            (dx,) = torch.autograd.grad(out, part, cotangent[batch].to(precision))
            return {**found, "dx": dx.flatten()}

        core, around = attention_flops(shape, request.mask), projection_flops(shape)
        return PreparedCase(
            request=request, machine=machine, backend=backend, leaves={"x": x, **dict(layer.named_parameters())},
            forward=lambda: layer(x), cotangent=cotangent, flops={name: core[name] + around[name] for name in core},
            cut=cut, reference=reference, parameters=tuple(layer.parameters()), spans=spans, module=layer,
        )  # fmt: skip
