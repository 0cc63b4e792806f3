"""A whole attention layer's step against nn.MultiheadAttention's and against its own parts, in one interleaved run.

python scripts/layer_against_parts.py [--backends flash4,sdpa_cudnn+flash4] [--shape 16,1024,32,2048] [--json FILE]

Parts: the two projections alone, each with gradients of its own, and the kernel alone on q, k and v of its own.  A step
is forward and backward with gradients of everything that needs one.  Each round times all of them once, in turn, over a
flushed L2: medians with p05 and p95.  Peaks are of one step, over what lay there before it.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from attn_lab import Attention
from attn_lab.core.errors import Unsupported
from attn_lab.core.machine import Machine, detect
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.measure.probes._clock import Clock, CudaClock, WallClock
from attn_lab.nn.auto.resolve import backends_named

Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default="sdpa_flash,sdpa_cudnn,flash2,flash4,sdpa_cudnn+flash4")
    parser.add_argument("--shape", default="16,1024,32,2048", help="batch,seq,heads,emb_dim")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    machine = detect(asked.device)
    dtype = torch.float16 if machine.device == "cuda" else torch.float32
    batch, seq, heads, emb_dim = map(int, asked.shape.split(","))
    shape = Shape(batch_size=batch, seq_len=seq, num_heads=heads, emb_dim=emb_dim, dtype=str(dtype)[6:])
    steps = staged(asked.backends.split(","), shape, machine)
    times = timed(steps, asked.rounds, machine)
    peaks = {name: peak(step) if machine.device == "cuda" else None for name, step in steps.items()}
    found = {
        name: {"ms": statistics.median(series), "p05": sorted(series)[len(series) // 20],
               "p95": sorted(series)[-1 - len(series) // 20], "peak_mb": peaks[name], "series": series}
        for name, series in times.items()
    }  # fmt: skip
    print(f"{machine.name}, torch {torch.__version__}, {shape} causal, step of {asked.rounds} interleaved rounds")
    for name, each in found.items():
        memory = f"  {each['peak_mb']:8.1f} MB" if each["peak_mb"] is not None else ""
        print(f"  {name:36} {each['ms']:8.3f} ms ({each['p05']:.3f}–{each['p95']:.3f}){memory}")
    for backend in asked.backends.split(","):
        if f"layer {backend}" in found:
            print(f"! {judged(backend, times, peaks)}")
    if asked.json:
        asked.json.write_text(json.dumps(found))


def staged(names: list[str], shape: Shape, machine: Machine) -> dict[str, Step]:
    """What is timed, by what it is called."""
    dtype, device = getattr(torch, shape.dtype), machine.device
    size = (shape.batch_size, shape.seq_len, shape.emb_dim)
    x = torch.randn(size, device=device, dtype=dtype, requires_grad=True)
    cotangent = torch.randn(size, device=device, dtype=dtype)

    def step_of(module: Callable[[Tensor], Tensor], parameters: list[Tensor]) -> Step:
        return lambda: torch.autograd.grad(module(x), [x, *parameters], cotangent)

    multihead = nn.MultiheadAttention(
        shape.emb_dim, shape.num_heads, bias=False, batch_first=True, device=device, dtype=dtype
    )
    masked_out = torch.ones(shape.seq_len, shape.seq_len, dtype=torch.bool, device=device).triu(1)

    def theirs(x: Tensor) -> Tensor:
        return multihead(x, x, x, attn_mask=masked_out, is_causal=True, need_weights=False)[0]

    steps = {"nn.MultiheadAttention": step_of(theirs, list(multihead.parameters()))}
    bare = Attention(shape.emb_dim, shape.num_heads, backend="naive").to(device, dtype)

    middle = torch.randn(*size[:2], 3 * shape.emb_dim, device=device, dtype=dtype)
    joint = torch.randn(size, device=device, dtype=dtype, requires_grad=True)

    def projections() -> object:
        packed, out = bare.qkv(x), bare.out(joint)
        return torch.autograd.grad([packed, out], [x, joint, *bare.parameters()], [middle, cotangent])

    steps["projections alone"] = projections
    for name in names:
        (backend,) = backends_named(name)
        layer = Attention(shape.emb_dim, shape.num_heads, backend=backend).to(device, dtype)
        request = Request(shape=shape, mask=Causal())
        try:
            if reasons := backend.unsupported_reasons(request, machine):
                raise Unsupported(name, reasons)
            attend = backend.prepare(request, machine)
        except Unsupported as refused:
            print(f"  {refused}")
            continue
        q, k, v = (
            torch.randn(*size[:2], shape.num_heads, shape.head_dim, device=device, dtype=dtype, requires_grad=True)
            for _ in "qkv"
        )
        steps[f"layer {name}"] = step_of(layer, list(layer.parameters()))
        steps[f"kernel {name}"] = kernel_step(attend, (q, k, v), cotangent.view_as(q))
    return steps


def kernel_step(attend: Callable[..., Tensor], inputs: tuple[Tensor, ...], cotangent: Tensor) -> Step:
    return lambda: torch.autograd.grad(attend(*inputs), inputs, cotangent)


def timed(steps: dict[str, Step], rounds: int, machine: Machine) -> dict[str, list[float]]:
    clocks: dict[str, Clock] = {name: CudaClock() if machine.device == "cuda" else WallClock() for name in steps}
    for name, step in steps.items():
        step()  # compiles
        clocks[name].warm(lambda: None, lambda _, step=step: step(), 10, 5.0)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds):
        first = turn % len(steps)
        for name in [*list(steps)[first:], *list(steps)[:first]]:
            times[name] += clocks[name].time(lambda: None, lambda _, name=name: steps[name](), 1, lambda: None)
    return times


def peak(step: Step) -> float:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def judged(backend: str, times: dict[str, list[float]], peaks: dict[str, float | None]) -> str:
    """The measures of one backend's layer: medians of ratios within rounds."""
    layer, theirs = times[f"layer {backend}"], times["nn.MultiheadAttention"]
    parts = [sum(pair) for pair in zip(times["projections alone"], times[f"kernel {backend}"], strict=True)]
    against = {"nn.MultiheadAttention (≤ 0.75)": theirs, "its parts (≤ 1.03)": parts}
    told = [
        f"{statistics.median(a / b for a, b in zip(layer, other, strict=True)):.3f}× {name}"
        for name, other in against.items()
    ]
    mine, other = peaks[f"layer {backend}"], peaks["nn.MultiheadAttention"]
    memory = f"; peak {mine:.0f} MB, nn.MultiheadAttention's {other:.0f}" if mine and other else ""
    return f"layer {backend}: {statistics.median(layer):.3f} ms = {', '.join(told)}{memory}"


if __name__ == "__main__":
    main()
