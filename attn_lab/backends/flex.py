"""PyTorch's flex_attention, compiled, with a BlockMask made from the mask's own predicate."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attn_lab.core.backend import AttentionFn, Backend, for_any_size
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.errors import Unsupported
from attn_lab.core.machine import Machine
from attn_lab.core.mask import kind
from attn_lab.core.request import Request

SPARSE_BLOCK = 128  # queries of one block of a BlockMask, by default
DENSE_BLOCK_MASK_UP_TO = 2**27  # pairs: past it the predicate is compiled rather than evaluated in one piece


@dataclass(frozen=True)
class Flex(Backend):
    capabilities = {
        "cuda": Capabilities(head_dim=(16, 256), empty_rows=True, max_batch_size=65535, capability=(8, 0)),
        # torch has no backward of it on the CPU; and under 24 channels, where 8 keys are left over of its blocks of 16,
        # inductor's matrix product reads and writes past them (2.13, AVX2: one answer in three is wrong).
        "cpu": Capabilities(backward=False, empty_rows=True, head_dim=(24, 1024)),
    }
    # On a GPU kernels are named; on the CPU all there is to see is that a compiled graph ran, which is flex alone.
    kernels = {"forward": "flex_attention|CompiledFxGraph", "backward": "flex_attention_backward"}
    compiles = needs_dynamo = True

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        shape, mask = request.shape, request.mask
        block_mask = None
        if kind(mask) != "full":
            offset = shape.offset

            def predicate(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return mask(batch, head, query + offset, key)

            block_mask = create_block_mask(
                predicate,
                None if mask.uniform else shape.batch_size,
                None if mask.uniform else shape.num_heads,
                shape.seq_len,
                shape.seq_len_kv,
                device=machine.device,
                _compile=shape.seq_len * shape.seq_len_kv > DENSE_BLOCK_MASK_UP_TO,
            )
        scale, grouped = request.softmax_scale, shape.group_size > 1
        # Short queries go to a decoding kernel that stacks a group's queries in one block, and cannot where they
        # outgrow the mask's: torch 2.11 then finds "no choices" (InductorError).
        options: Any = {"FORCE_USE_FLEX_ATTENTION": True} if shape.seq_len * shape.group_size > SPARSE_BLOCK else None

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
            out = flex_attention(
                q, k, v, block_mask=block_mask, scale=scale, enable_gqa=grouped, kernel_options=options
            )
            assert isinstance(out, Tensor)
            return out.transpose(1, 2)

        # Dynamo keeps its compiled versions by code object and gives up compiling after eight: each request needs
        # its own.  fullgraph turns a silent return to the eager O(S²) algorithm into an error.
        attend.__code__ = attend.__code__.replace()
        lone = kind(mask) == "full" and shape.seq_len == 1  # decoding: one version for however many keys
        compiled = torch.compile(attend, fullgraph=True, dynamic=lone)

        def apart(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if not torch.compiler.is_compiling():
                _no_forward_mode(q, k, v)
            return compiled(q, k, v)

        if machine.device != "cpu":
            return for_any_size(apart) if lone else apart

        # In one graph with a layer's projections torch 2.13 makes wrong answers of it on a CPU, alone right ones.
        why = "flex_attention on a CPU is wrong as part of a larger compiled graph"
        alone = torch.compiler.disable(apart, recursive=False, reason=why)
        return for_any_size(alone) if lone else alone


def _no_forward_mode(*tensors: Tensor) -> None:
    """Raise Unsupported where flex_attention would lose a tangent without a word."""
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(each).tangent is not None for each in tensors):
        raise Unsupported("flex", ["forward-mode derivatives: none (backend='naive', 'naive_fp32' or 'sdpa_math' has)"])
