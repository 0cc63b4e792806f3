"""FlashAttention 3 (Shah et al. 2024), Hopper only, from a package that installs flash_attn_interface."""

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attn_lab.core.backend import AttentionFn, Backend, Split, for_any_size
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.importing import importing
from attn_lab.core.machine import Machine
from attn_lab.core.mask import CAUSAL
from attn_lab.core.request import Request

WHOLE = ("flash-attn-3",)  # built from the flash-attention repository's hopper/ folder
FORWARD_ONLY = ("tokenspeed-fa3",)  # as published on PyPI


@dataclass(frozen=True)
class Flash3(Backend):
    capabilities = {
        "cuda": Capabilities(
            dtypes=("float16", "bfloat16"),
            masks=("full", "causal", "band"),
            empty_rows=True,
            head_dim=(8, 256),
            head_dim_multiple=8,
            max_batch_size=65535,  # one axis of a CUDA grid
            capability=(9, 0),
            capability_below=(10, 0),
            packages=WHOLE + FORWARD_ONLY,
            pip="tokenspeed-fa3",
        )
    }
    split_capabilities = {
        "cuda": Capabilities(
            dtypes=("float16", "bfloat16"),
            masks=("full", "causal", "band"),
            backward=False,
            head_dim=(8, 256),
            head_dim_multiple=8,
            max_batch_size=65535,  # one axis of a CUDA grid
            capability=(9, 0),
            capability_below=(10, 0),
            packages=WHOLE + FORWARD_ONLY,
            pip="tokenspeed-fa3",
        )
    }
    kernels = {"forward": r"flash::.*FlashAttnFwdSm90", "backward": r"flash::.*FlashAttnBwdSm90"}

    def declared_reasons(self, request: Request, machine: Machine) -> list[str]:
        reasons = super().declared_reasons(request, machine)
        here = [name for name in FORWARD_ONLY if name in machine.packages]
        if request.needs_backward and here and not any(name in machine.packages for name in WHOLE):
            reasons.append(f"passes: {here[0]} is a forward-only build; asked {', '.join(request.passes)} "
                           "(passes=[forward] would run)")  # fmt: skip
        return reasons

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        with importing("flash3", "flash_attn_interface"):
            from flash_attn_interface import flash_attn_func

        options = _options(request)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = flash_attn_func(q, k, v, **options)
            return out[0] if isinstance(out, tuple) else out  # some builds return (out, lse)

        return for_any_size(attend)

    def split(self, request: Request, machine: Machine) -> Split:
        with importing("flash3", "flash_attn_interface"):
            from flash_attn_interface import _flash_attn_forward

        # Builds differ in what else it takes, and it has few defaults.
        takes = inspect.signature(_flash_attn_forward).parameters.values()
        options = {each.name: None for each in takes if each.default is each.empty} | _options(request)

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            out, lse, *_ = _flash_attn_forward(**options | {"q": q, "k": k, "v": v})
            return out, lse

        return Split(forward, None, any_size=True)


def _options(request: Request) -> dict[str, Any]:
    left, right = request.mask.band  # type: ignore[misc]  # limits admit no mask without one
    is_causal = request.mask.band == CAUSAL
    window = (-1, -1) if is_causal else (-1 if left is None else left, -1 if right is None else right)
    return {"softmax_scale": request.softmax_scale, "causal": is_causal, "window_size": window}
