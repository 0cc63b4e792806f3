"""FlashAttention 4: the CuTe DSL kernels of the package flash-attn-4, for Hopper and Blackwell."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attn_lab.backends._joined import joined
from attn_lab.core.backend import AttentionFn, Backend, Split, for_any_size
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.importing import importing
from attn_lab.core.machine import Machine
from attn_lab.core.mask import CAUSAL, FULL, Band, boundaries
from attn_lab.core.request import Request

LIMITS = Capabilities(
    dtypes=("float16", "bfloat16"),
    masks=("full", "causal", "band", "documents", "ragged"),
    empty_rows=True,
    head_dim=(8, 128),
    head_dim_multiple=8,
    # Version 4.0.0b36 on compute capability 9.0 has a wrong gradient of q (with grouped heads, of k and v too) where
    # head_dim, rounded up to a multiple of 16, is an odd multiple of 16; two of those do not compile without a mask.
    # Padding to a multiple of 32 is right, but slower than cuDNN at each of them: 1.1 to 1.8 times its step.
    excluded_head_dims=(104, 112),
    forward_only_head_dims=(8, 16, 40, 48, 72, 80),
    max_batch_size=65535,  # one axis of a CUDA grid
    capability=(9, 0),
    packages=("flash-attn-4",),
    pip="flash-attn-4[cu13]",
)


@dataclass(frozen=True)
class Flash4(Backend):
    capabilities = {"cuda": LIMITS}
    split_capabilities = {"cuda": replace(LIMITS, masks=("full", "causal", "band"), empty_rows=False)}
    compiles = True
    kernels = {"forward": "flash_attncute.*fwd", "backward": "flash_attncute.*bwd"}

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        with importing("flash4", "flash-attn-4"):
            from flash_attn.cute import flash_attn_func, flash_attn_varlen_func

        if not self.split_reasons(request, machine):
            halves = self.split(request, machine)
            return (
                joined(halves, halves)
                if request.needs_backward
                else for_any_size(lambda q, k, v: halves.forward(q, k, v)[0])
            )

        ends, is_ragged = request.mask.ends, request.mask.ragged
        causal, left, right = _window(request.mask.band if ends is None and not is_ragged else request.mask.inside)
        scale = request.softmax_scale

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = flash_attn_func(q, k, v, softmax_scale=scale, causal=causal, window_size=(left, right))
            return out[0] if isinstance(out, tuple) else out  # (out, lse) in some releases

        def attend_ragged(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
            out = flash_attn_varlen_func(
                q, k, v, seqused_k=lengths, softmax_scale=scale, causal=causal, window_size=(left, right)
            )
            return out[0] if isinstance(out, tuple) else out

        if is_ragged:
            return for_any_size(attend_ragged)
        if ends is None:
            return for_any_size(attend)
        bounds, longest = bounds_k, longest_k = boundaries(ends, machine.device)
        if request.mask.ends_kv is not None:
            bounds_k, longest_k = boundaries(request.mask.ends_kv, machine.device)

        def attend_documents(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (tensor.squeeze(0) for tensor in (q, k, v))  # (total, heads, head_dim)
            out = flash_attn_varlen_func(
                q, k, v, cu_seqlens_q=bounds, cu_seqlens_k=bounds_k, max_seqlen_q=longest, max_seqlen_k=longest_k,
                softmax_scale=scale, causal=causal, window_size=(left, right),
            )  # fmt: skip
            return (out[0] if isinstance(out, tuple) else out).unsqueeze(0)

        return attend_documents

    def split(self, request: Request, machine: Machine) -> Split:
        with importing("flash4", "flash-attn-4"):
            import flash_attn.cute.interface  # noqa: F401  else missed in the middle of a step

        options = (request.softmax_scale, *_window(request.mask.band))

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            if torch.compiler.is_compiling():
                return _forward_op(q, k, v, *options)
            return _forward(q, k, v, *options)

        def backward(
            dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            if torch.compiler.is_compiling():
                return _backward_op(dout, q, k, v, out, lse, *options)
            return _backward(dout, q, k, v, out, lse, *options)

        def backward_into(*tensors: Tensor) -> None:
            dout, q, k, v, out, lse, *grads = tensors
            _backward(dout, q, k, v, out, lse, *options, *grads)

        return Split(forward, backward, backward_into, any_size=True)


def _window(band: Band | None) -> tuple[bool, int | None, int | None]:
    """causal, left, right, as the package has them."""
    left, right = (None, None) if band in (CAUSAL, FULL) else band  # type: ignore[misc]  # limits admit no mask without
    return band == CAUSAL, left, right


def _forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, left: int | None, right: int | None
) -> tuple[Tensor, Tensor]:
    from flash_attn.cute.interface import _flash_attn_fwd

    out, lse, *_ = _flash_attn_fwd(
        q, k, v, softmax_scale=scale, causal=causal, window_size_left=left, window_size_right=right, return_lse=True
    )
    return out, lse


def _backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, causal: bool,
    left: int | None, right: int | None, dq: Tensor | None = None, dk: Tensor | None = None, dv: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    from flash_attn.cute.interface import _flash_attn_bwd

    return _flash_attn_bwd(
        q, k, v, out, dout, lse, softmax_scale=scale, causal=causal, window_size_left=left, window_size_right=right,
        dq=dq, dk=dk, dv=dv,
    )  # fmt: skip


# The package compiles kernels at their first call, which torch.compile cannot look into: to it these are one step each.
_forward_op = torch.library.custom_op(
    "attn_lab::flash4_forward", _forward, mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, float scale, bool causal, int? left, int? right) -> (Tensor, Tensor)",
)  # fmt: skip
_backward_op = torch.library.custom_op(
    "attn_lab::flash4_backward", _backward, mutates_args=(),
    schema="(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, float scale, bool causal, int? left, "
    "int? right) -> (Tensor, Tensor, Tensor)",
)  # fmt: skip


@_forward_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *options: object) -> tuple[Tensor, Tensor]:
    batch, seq_len, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((batch, heads, seq_len), dtype=torch.float32)


@_backward_op.register_fake
def _(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
