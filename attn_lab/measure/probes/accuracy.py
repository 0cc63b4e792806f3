"""Is it right?  Output and gradients against the fp64 oracle, before any clock runs."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attn_lab.core.errors import Incorrect
from attn_lab.core.tolerance import FLOAT32_SLACK, GRADIENT_FACTOR, OUT_FACTOR, allowed_errors, largest
from attn_lab.measure.prepared_case import Answer, PreparedCase, Probe
from attn_lab.records.record import Measurement


@dataclass(frozen=True)
class Accuracy(Probe):
    """The rule of flash-attention's own tests: max|out - exact| <= 2 · max|plain - exact|, gradients 3 ·, plus what
    rounding near `exact` costs, and never less than a few ulps (`core/tolerance.py`).  `exact` is the oracle in fp64,
    `plain` the same mathematics in the case's dtype.  `accuracy/NAME` is error over allowed error: at most 1 passes.

    It asks twice: an answer may depend on the order in which threads add, but no further than the rule allows
    (`accuracy/repeat`), and what a step is given must have the bits that it was staged with.

    In float32 both factors double (`float32_slack`).  The rule was made for half precision, where a kernel's own
    arithmetic is far finer than what it rounds to; in float32 it has no such reserve, and the order of sums and an
    exp of a few ulp make the ratio of two largest errors wander (seen: 3.05, by torch's own CPU kernel).
    """

    out_factor: float = OUT_FACTOR
    gradient_factor: float = GRADIENT_FACTOR
    float32_slack: float = FLOAT32_SLACK

    def measure(self, prepared: PreparedCase) -> Iterator[Measurement]:
        first, again = self._answer(prepared), self._answer(prepared)
        if overwritten := prepared.overwritten:
            raise Incorrect(*(f"{name}: a step was given it to read, and wrote to it" for name in overwritten))
        reasons, repeats = [], []
        for name, (exact, allowed) in self._allowed(prepared).items():
            error = max(largest(answer[name].double() - exact) for answer in (first, again))
            apart = largest(first[name].double() - again[name].double())
            repeats.append((apart / allowed, apart, name))
            yield Measurement(
                name=f"accuracy/{name}", value=error / allowed, unit="of allowed",
                note=f"max error {error:.3g} of {allowed:.3g}",
            )  # fmt: skip
            if not apart <= allowed:
                reasons.append(f"{name}: asked twice, answers differ by {apart:.3g}; allowed {allowed:.3g}")
            elif not error <= allowed:
                reasons.append(f"{name}: max error {error:.3g}; allowed {allowed:.3g}")
        share, apart, name = max(repeats)
        note = f"asked twice, {name} differs by {apart:.3g}" if apart else "asked twice, no difference"
        yield Measurement(name="accuracy/repeat", value=share, unit="of allowed", note=note)
        if reasons:
            raise Incorrect(*reasons)

    def _answer(self, prepared: PreparedCase) -> Answer:
        """The checked slices of one answer, which has the shapes and dtypes asked and is finite everywhere."""
        whole = prepared.answer()
        if reasons := _shape_or_dtype_reasons(prepared, whole):
            raise Incorrect(*reasons)
        reasons = [f"{name}: {count} of {tensor.numel()} values are not finite (inputs lie between rows of NaN)"
                   for name, tensor in whole.items() if (count := int((~torch.isfinite(tensor)).sum()))]  # fmt: skip
        if reasons:
            raise Incorrect(*reasons)
        return prepared.cut(whole)

    def _allowed(self, prepared: PreparedCase) -> dict[str, tuple[Tensor, float]]:
        """By name: the exact answer, and the error allowed."""
        dtype = getattr(torch, prepared.request.shape.dtype)
        exact, plain = prepared.reference(torch.float64), prepared.reference(dtype)
        allowed = allowed_errors(
            exact, plain, dtype, out_factor=self.out_factor, gradient_factor=self.gradient_factor,
            float32_slack=self.float32_slack,
        )  # fmt: skip
        return {name: (reference, allowed[name]) for name, reference in exact.items()}


def _shape_or_dtype_reasons(prepared: PreparedCase, whole: Answer) -> list[str]:
    """Outputs and gradients whose shape or dtype is not that of what they stand for."""
    expected = {"out": prepared.cotangent, **{f"d{name}": leaf for name, leaf in prepared.leaves.items()}}
    return [
        f"{name}: expected {tuple(expected[name].shape)} {expected[name].dtype}; got {tuple(got.shape)} {got.dtype}"
        for name, got in whole.items()
        if (got.shape, got.dtype) != (expected[name].shape, expected[name].dtype)
    ]
