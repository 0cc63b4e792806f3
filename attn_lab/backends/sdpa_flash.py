"""The FlashAttention-2 kernels that PyTorch carries; on the CPU, its own flash-style kernel."""

from dataclasses import dataclass

from torch.nn.attention import SDPBackend

from attn_lab.backends._one_sdpa import one_sdpa
from attn_lab.core.backend import Attend, Backend, Limits, Request
from attn_lab.core.machine import Machine


@dataclass(frozen=True)
class SdpaFlash(Backend):
    limits = {
        "cuda": Limits(
            dtypes=("float16", "bfloat16"),
            masks=("full", "causal"),
            square_masks=("causal",),
            dropout=True,
            head_dim=(1, 256),
            capability=(8, 0),
        ),
        "cpu": Limits(),
    }
    kernels = {
        "forward": "pytorch_flash::flash_fwd|_flash_attention_for_cpu$",
        "backward": "pytorch_flash::flash_bwd|_flash_attention_for_cpu_backward$",
    }

    def prepare(self, request: Request, machine: Machine) -> Attend:
        return one_sdpa(SDPBackend.FLASH_ATTENTION, request, machine)
