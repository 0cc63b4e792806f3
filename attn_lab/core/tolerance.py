"""The error that a verified answer may have: the rule of flash-attention's own tests, with a floor in ulps."""

from collections.abc import Mapping

import torch
from torch import Tensor

OUT_FACTOR = 2.0
GRADIENT_FACTOR = 3.0
FLOAT32_SLACK = 2.0
FLOOR_ULPS = {torch.float32: 32.0, torch.float64: 32.0}  # of the largest exact value; half precision: 1


def allowed_errors(
    exact: Mapping[str, Tensor], plain: Mapping[str, Tensor], dtype: torch.dtype, *,
    out_factor: float = OUT_FACTOR, gradient_factor: float = GRADIENT_FACTOR, float32_slack: float = FLOAT32_SLACK,
) -> dict[str, float]:  # fmt: skip
    """The largest absolute error allowed, by name ("out", "dq", "dk", "dv", …).

    max|got - exact| <= 2 · max|plain - exact| for outputs and 3 · for gradients, plus what rounding near `exact` costs
    (flash-attention, hopper/test_flash_attn.py).  Both factors double in float32 and float64, where a kernel has no
    finer arithmetic in reserve than what it stores.  At few positions `plain` may be exact by chance, so the rule never
    asks for less than the last places of the largest value: 32 ulps (4e-6) in float32, where sums of another order and
    an exp of 20 bits, as PyTorch's CPU kernel has, differ by up to 19 in 600 draws; 1 ulp in half precision, where the
    last rounding alone costs up to one half.

    Args:
        exact: answers of the oracle in float64.
        plain: the same mathematics computed in `dtype`.
        dtype: of the case.
    """
    allowed = {}
    for name, reference in exact.items():
        factor = out_factor if name == "out" else gradient_factor
        factor *= float32_slack if dtype in FLOOR_ULPS else 1
        rule = factor * largest(plain[name].double() - reference) + _rounding(reference, dtype)
        floor = FLOOR_ULPS.get(dtype, 1.0) * torch.finfo(dtype).eps * largest(reference)
        allowed[name] = max(rule, floor, torch.finfo(dtype).tiny)  # exact zeros, as of one key alone
    return allowed


def largest(difference: Tensor) -> float:
    """The largest absolute value, 0 for a tensor without elements."""
    return difference.abs().max().item() if difference.numel() else 0.0


def _rounding(reference: Tensor, dtype: torch.dtype) -> float:
    """Twice what adding and taking away 0.3 loses in `dtype`."""
    low = reference.to(dtype)
    return 2 * largest((low + 0.3 - 0.3).double() - low.double())
