"""cuDNN's fused attention through PyTorch."""

from dataclasses import dataclass

from torch.nn.attention import SDPBackend

from attn_lab.backends._one_sdpa import one_sdpa
from attn_lab.core.backend import Attend, Backend, Limits, Request
from attn_lab.core.machine import Machine


@dataclass(frozen=True)
class SdpaCudnn(Backend):
    limits = {
        "cuda": Limits(
            dtypes=("float16", "bfloat16"),
            head_dim=(8, 128),
            head_dim_multiple=8,
            least_keys=2,
            dropout=True,
            capability=(8, 0),
        )
    }
    kernels = {"forward": "cudnn.*sdpa.*fprop", "backward": "cudnn.*sdpa.*bprop"}

    def prepare(self, request: Request, machine: Machine) -> Attend:
        return one_sdpa(SDPBackend.CUDNN_ATTENTION, request, machine)
