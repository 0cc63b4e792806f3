"""How fast this machine multiplies and copies: measured once a process, for each row to be held against."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from attn_lab.measure.prepared_case import PreparedCase, Probe
from attn_lab.measure.probes._clock import Clock, CudaClock, WallClock
from attn_lab.records.record import Measurement

REPEATS = {"cuda": 50, "cpu": 15}
REST = 3.0  # as the passes that are held against it
SIDE = {"cuda": 8192, "cpu": 1024}  # of the square matrices
COPIED = {"cuda": 2**30, "cpu": 2**27}  # bytes, many times any cache


@dataclass(frozen=True)
class PeakRates(Probe):
    """peak_rates/gemm: a large matrix product in the case's dtype; peak_rates/copy: a large copy, read and written.

    PASS/gemm_fraction is a timed pass's share of the first.  PASS/intensity is its FLOP over the bytes that
    must move at least: every leaf and the output; for a backward, all gradients and the cotangent as well.
    Ceilings are absent where they do not fit in memory beside the case (the next that leaves room has them), and on
    the CPU for half precision, whose products are emulated there, slower than what they are to bound.
    """

    clocks = True

    def measure(self, prepared: PreparedCase) -> Iterator[Measurement]:
        device, dtype = prepared.machine.device, getattr(torch, prepared.request.shape.dtype)
        for name in prepared.passes:
            yield Measurement(
                name=f"{name}/intensity", value=prepared.flops[name] / prepared.min_bytes(name), unit="FLOP/B"
            )
        if device == "cpu" and dtype.itemsize < 4:
            return
        try:
            gemm, copy = _gemm(device, dtype), _copy(device)
        except (torch.OutOfMemoryError, MemoryError):
            return
        samples = REPEATS[device]
        yield Measurement(name="peak_rates/gemm", value=gemm, unit="TFLOP/s", samples=samples, note=f"{SIDE[device]}³")
        yield Measurement(name="peak_rates/copy", value=copy, unit="GB/s", samples=samples)
        for name in prepared.passes:
            if rate := prepared.found.get(f"{name}/tflops"):
                yield Measurement(name=f"{name}/gemm_fraction", value=rate.value / gemm, unit="of peak_rates/gemm")


@cache
def _gemm(device: str, dtype: torch.dtype) -> float:
    """TFLOP/s of a square product of normal numbers."""
    side = SIDE[device]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / _median_seconds(device, lambda: left @ right) / 1e12


@cache
def _copy(device: str) -> float:
    """GB/s, each byte counted when it is read and when it is written."""
    source = torch.randint(256, (COPIED[device] // 2,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return COPIED[device] / _median_seconds(device, lambda: target.copy_(source)) / 1e9


def _median_seconds(device: str, call: Callable[[], object]) -> float:
    clock: Clock = CudaClock(REST) if device == "cuda" else WallClock()
    words = (lambda: None, lambda _: call())
    clock.warm(*words, REPEATS[device] // 5, math.inf)
    return float(np.median(clock.time(*words, REPEATS[device], lambda: None))) / 1e3
