"""Is it right?  Output and gradients against the fp64 oracle, before any clock runs."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attn_lab.bench.trial import Answer, Probe, Trial
from attn_lab.core.errors import Wrong
from attn_lab.records.record import Measurement


@dataclass(frozen=True)
class Accuracy(Probe):
    """The rule of flash-attention's own tests: max|out - exact| <= 2 · max|plain - exact|, gradients 3 ·, plus what
    rounding near `exact` costs.  `exact` is the oracle in fp64, `plain` the same mathematics in the case's dtype.
    `accuracy/NAME` is error over allowed error: at most 1 passes.

    It asks twice: an answer may depend on the order in which threads add, but no further than the rule allows
    (`accuracy/repeat`), and what a step is given must have the bits that it was staged with.

    In float32 both factors double (`float32_slack`).  The rule was made for half precision, where a kernel's own
    arithmetic is far finer than what it rounds to; in float32 it has no such reserve, and the order of sums and an
    exp of a few ulp make the ratio of two largest errors wander (seen: 3.05, by torch's own CPU kernel).
    """

    out_factor: float = 2.0
    gradient_factor: float = 3.0
    float32_slack: float = 2.0

    def measure(self, trial: Trial) -> Iterator[Measurement]:
        first, again = self._answer(trial), self._answer(trial)
        if overwritten := trial.overwritten:
            raise Wrong(*(f"{name}: a step was given it to read, and wrote to it" for name in overwritten))
        reasons, repeats = [], []
        for name, (exact, allowed) in self._allowed(trial).items():
            error = max(_largest(answer[name].double() - exact) for answer in (first, again))
            apart = _largest(first[name].double() - again[name].double())
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
            raise Wrong(*reasons)

    def _answer(self, trial: Trial) -> Answer:
        """The checked slices of one answer, which has the shapes and dtypes asked and is finite everywhere."""
        whole = trial.answer()
        if reasons := _not_as_asked(trial, whole):
            raise Wrong(*reasons)
        reasons = [f"{name}: {count} of {tensor.numel()} values are not finite (inputs lie between rows of NaN)"
                   for name, tensor in whole.items() if (count := int((~torch.isfinite(tensor)).sum()))]  # fmt: skip
        if reasons:
            raise Wrong(*reasons)
        return trial.cut(whole)

    def _allowed(self, trial: Trial) -> dict[str, tuple[Tensor, float]]:
        """By name: the exact answer, and the error allowed."""
        dtype = getattr(torch, trial.request.shape.dtype)
        exact, plain = trial.reference(torch.float64), trial.reference(dtype)
        found = {}
        for name, reference in exact.items():
            factor = self.out_factor if name == "out" else self.gradient_factor
            factor *= self.float32_slack if dtype == torch.float32 else 1
            allowed = factor * _largest(plain[name].double() - reference) + _rounding(reference, dtype)
            found[name] = reference, max(allowed, torch.finfo(dtype).tiny)  # exact zeros, as of one key alone
        return found


def _not_as_asked(trial: Trial, whole: Answer) -> list[str]:
    """Outputs and gradients whose shape or dtype is not that of what they stand for."""
    expected = {"out": trial.cotangent, **{f"d{name}": leaf for name, leaf in trial.leaves.items()}}
    return [
        f"{name}: expected {tuple(expected[name].shape)} {expected[name].dtype}; got {tuple(got.shape)} {got.dtype}"
        for name, got in whole.items()
        if (got.shape, got.dtype) != (expected[name].shape, expected[name].dtype)
    ]


def _largest(difference: Tensor) -> float:
    return difference.abs().max().item()


def _rounding(reference: Tensor, dtype: torch.dtype) -> float:
    """What adding and taking away 0.3 in the case's dtype loses, twice (flash-attention, hopper/test_flash_attn.py)."""
    low = reference.to(dtype)
    return 2 * _largest((low + 0.3 - 0.3).double() - low.double())
