"""Attention alone: q, k and v are leaves, nothing is projected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attn_lab.core.backend import AttentionFn, Backend
from attn_lab.core.errors import BadRequest
from attn_lab.core.flops import attention_flops
from attn_lab.core.machine import Machine
from attn_lab.core.oracle import oracle
from attn_lab.core.request import TRAIN_STEP, Request
from attn_lab.measure.inputs import check_inputs, draw
from attn_lab.measure.prepared_case import Answer, PreparedCase, Subject


@dataclass(frozen=True)
class Kernel(Subject):
    inputs: str = "randn"

    def __post_init__(self) -> None:
        check_inputs(self.inputs)

    def check(self, request: Request) -> None:
        if TRAIN_STEP in request.passes:
            raise BadRequest("passes: train_step needs parameters, and subject=kernel has none "
                             "(subject=layer and subject=model have)")  # fmt: skip

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
        generator = torch.Generator(machine.device).manual_seed(seed)

        def drawn(seq: int, heads: int) -> Tensor:
            size = (shape.batch_size, seq, heads, shape.head_dim)
            return draw(self.inputs, size, generator, getattr(torch, shape.dtype))

        q = drawn(shape.seq_len, shape.num_heads)
        k, v = (drawn(shape.seq_len_kv, shape.num_kv_heads) for _ in "kv")
        cotangent = drawn(shape.seq_len, shape.num_heads)
        for leaf in (q, k, v):
            leaf.requires_grad_(request.needs_backward)
        checked = _checked(shape.batch_size, shape.num_kv_heads, checked_slices, seed)
        groups = [slice(head * shape.group_size, (head + 1) * shape.group_size) for _, head in checked]

        def pieces(whole: Answer) -> dict[str, list[Tensor]]:
            """The checked heads of each tensor there is: query-like by group, key-like singly."""
            found = {}
            for name, tensor in whole.items():
                cuts = groups if name in ("q", "out", "dq") else [slice(head, head + 1) for _, head in checked]
                found[name] = [
                    tensor[batch : batch + 1, :, heads] for (batch, _), heads in zip(checked, cuts, strict=True)
                ]
            return found

        def flat(pieces: Mapping[str, Sequence[Tensor]]) -> Answer:
            return {name: torch.cat([piece.flatten() for piece in several]) for name, several in pieces.items()}

        def reference(dtype: torch.dtype) -> Answer:
            inputs = pieces({"q": q.detach(), "k": k.detach(), "v": v.detach(), "out": cotangent})
            found: dict[str, list[Tensor]] = {}
            for index, (batch, _) in enumerate(checked):
                heads = torch.arange(groups[index].start, groups[index].stop, device=machine.device)
                exact = oracle(request.mask, shape, torch.tensor([batch], device=machine.device), heads)
                leaves = {name: inputs[name][index].to(dtype, copy=True) for name in ("q", "k", "v")}
                for leaf in leaves.values():
                    leaf.requires_grad_(request.needs_backward)
                out = exact(*leaves.values())
                found.setdefault("out", []).append(out.detach())
                if request.needs_backward:
                    grads = torch.autograd.grad(out, tuple(leaves.values()), inputs["out"][index].to(dtype))
                    for name, grad in zip(leaves, grads, strict=True):
                        found.setdefault(f"d{name}", []).append(grad)
            return flat(found)

        return PreparedCase(
            request=request, machine=machine, backend=backend, leaves={"q": q, "k": k, "v": v},
            forward=lambda: attend(q, k, v), cotangent=cotangent, flops=attention_flops(shape, request.mask),
            cut=lambda whole: flat(pieces(whole)), reference=reference,
        )  # fmt: skip


def _checked(batch_size: int, num_kv_heads: int, checked_slices: int, seed: int) -> list[tuple[int, int]]:
    """Which (batch, key/value head) pairs are checked: seeded, distinct, the very last among them."""
    everything = batch_size * num_kv_heads
    order = torch.randperm(everything - 1, generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [everything - 1, *order[: checked_slices - 1]]  # kernels that overrun do so at the end
    return [divmod(index, num_kv_heads) for index in chosen]
