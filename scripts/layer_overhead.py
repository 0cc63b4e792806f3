"""What Attention costs the host beyond the same steps around the library's own function: medians of interleaved calls.

python scripts/layer_overhead.py [--calls 2000] [--backend sdpa_flash] [--device cpu]

At a tiny shape, forward alone, with the graph for a backward or without.  By hand is the leanest function of the same
projections, cut into the same views, around what the library offers: F.scaled_dot_product_attention with the
implementation chosen beforehand, flash_attn_func of either package; for others the backend's prepared function.  It
knows its sizes, looks nothing up and is no module: what being one costs (1 to 2 µs) counts against the layer.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from attn_lab import Attention
from attn_lab.core.backend import AttentionFn
from attn_lab.core.machine import detect
from attn_lab.core.request import PASSES, Request
from attn_lab.core.shape import Shape

SDPA = {"sdpa_flash": SDPBackend.FLASH_ATTENTION, "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION}


def library_function(backend: str, prepared: AttentionFn) -> AttentionFn:
    """What a person without attn_lab would call, causal."""
    if backend in SDPA:

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # a generator would take 3 µs more
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

        return attend
    if backend == "flash2":
        from flash_attn import flash_attn_func

        return lambda q, k, v: flash_attn_func(q, k, v, causal=True)
    if backend == "flash4":
        from flash_attn.cute import flash_attn_func

        return lambda q, k, v: flash_attn_func(q, k, v, causal=True)[0]
    return prepared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--backend", default="sdpa_flash")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    asked = parser.parse_args()
    machine = detect(asked.device)
    dtype = torch.bfloat16 if machine.device == "cuda" else torch.float32
    torch.set_num_threads(1)
    layer = Attention(64, 4, backend=asked.backend).to(machine.device, dtype)
    x = torch.randn(1, 16, 64, device=machine.device, dtype=dtype)
    shape = Shape(batch_size=1, seq_len=16, num_heads=4, emb_dim=64, dtype=str(dtype).removeprefix("torch."))

    def by_hand() -> torch.Tensor:
        q, k, v = layer.qkv(x).view(1, 16, 12, 16).split_with_sizes((4, 4, 4), dim=2)
        return layer.out(attend(q, k, v).reshape(1, 16, -1))

    def by_layer() -> torch.Tensor:
        return layer(x)

    for grad in (False, True):
        request = Request(shape=shape, mask=layer.mask, passes=PASSES if grad else ("forward",))
        attend = library_function(asked.backend, layer.backend.prepare(request, machine))  # type: ignore[union-attr]
        with torch.set_grad_enabled(grad), sdpa_kernel(SDPA.get(asked.backend, SDPBackend.MATH)):
            # Either always follows the other: one that follows itself finds its code in the caches, and is 2 µs faster.
            turns = (("layer", by_layer), ("by hand", by_hand), ("layer, again", by_layer), ("by hand, again", by_hand))
            taken: dict[str, list[float]] = {name: [] for name, _ in turns}
            for call in range(asked.calls + 200):
                for name, step in turns:
                    if machine.device == "cuda":
                        torch.cuda.synchronize()
                    start = time.perf_counter()
                    step()
                    if call >= 200:
                        taken[name].append((time.perf_counter() - start) * 1e6)
        layer_us, hand_us, _, again_us = (statistics.median(times) for times in taken.values())
        print(
            f"{asked.backend} on {machine.device}, {'with' if grad else 'without'} gradients: layer {layer_us:.1f} µs, "
            f"by hand {hand_us:.1f} µs, {layer_us - hand_us:+.1f} µs = {layer_us / hand_us:.3f}× "
            f"(by hand against itself {again_us - hand_us:+.1f} µs)"
        )


if __name__ == "__main__":
    main()
