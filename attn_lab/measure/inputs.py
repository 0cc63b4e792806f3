"""What a step is fed with: distributions by name, for what data look like is part of what a kernel costs."""

import math

import torch
from torch import Tensor

from attn_lab.core.errors import BadRequest

INPUTS = ("randn", "uniform", "zeros", "heavy_tailed")
ALIGNED = 256  # elements: at least the 512 bytes that CUDA's allocator aligns to


def check_inputs(name: str) -> None:
    if name not in INPUTS:
        raise BadRequest(f"subject.inputs: expected one of {', '.join(INPUTS)}; got {name!r}")


def draw(name: str, size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """A tensor of one of INPUTS, on the generator's device, with a row of NaN before and behind it.

    A kernel that reads past the end, and lets what it finds there into its answer, is then told by the answer.

    randn: standard normal.  uniform: within ±√3, of variance 1 as well.  zeros: the least that multiplying can cost.
    heavy_tailed: Student's t of 3 degrees of freedom, over √3 for variance 1: rare values far out, as activations have.
    """
    values = _drawn(name, size, generator, dtype)
    margin = math.ceil(math.prod(size[2:]) / ALIGNED) * ALIGNED
    whole = torch.full((margin + values.numel() + margin,), math.nan, dtype=dtype, device=values.device)
    inner = whole[margin:-margin].view(size).detach()  # detached, it is to autograd and the compiler no view
    return inner.copy_(values)


def _drawn(name: str, size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    device = generator.device

    def normal() -> Tensor:
        return torch.randn(size, generator=generator, dtype=dtype, device=device)

    if name == "randn":
        return normal()
    if name == "uniform":
        return (torch.rand(size, generator=generator, dtype=dtype, device=device) * 2 - 1) * 3**0.5
    if name == "zeros":
        return torch.zeros(size, dtype=dtype, device=device)
    chi_squared = sum(normal().float() ** 2 for _ in range(3))
    return (normal().float() / chi_squared**0.5).to(dtype)
