"""Does flash-attn-4's backward give the same bits twice, after another library's forward?

Each pair's backward runs again on the same out and lse; gradients that differ are counted, with the largest difference.
Free memory holds other values before each run: a kernel that reads past its tensors shows.
"""

import torch

from attn_lab.core.backend import Backend
from attn_lab.core.machine import detect
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.masks.full import Full
from attn_lab.nn.auto.resolve import backends_named

RUNS, BATCH, HEADS, KEYS = 200, 2, 4, 239
SIZES = ((1, 32, 4), (1, 64, 4), (1, 32, 1), (2, 32, 4), (64, 32, 4), (129, 64, 4))  # queries, head_dim, kv heads


def main() -> None:
    """Print a line for each forward and size."""
    if not torch.cuda.is_available():
        print("needs a CUDA GPU; nothing is run")
        return
    flash4, *forwards = backends_named(["flash4", "flash4", "sdpa_cudnn", "sdpa_flash"])
    for forward in forwards:
        for sizes in SIZES:
            print(f"! {type(forward).__name__}+Flash4 queries {sizes[0]} head_dim {sizes[1]} kv heads {sizes[2]}: "
                  f"{reruns(forward, flash4, *sizes)}")  # fmt: skip


def reruns(forward: Backend, backward: Backend, seq_len: int, head_dim: int, kv_heads: int) -> str:
    """How often each gradient differed from the first, and by how much."""
    machine = detect("cuda")
    shape = Shape(batch_size=BATCH, seq_len=seq_len, seq_len_kv=KEYS, num_heads=HEADS, num_kv_heads=kv_heads,
                  head_dim=head_dim, emb_dim=HEADS * head_dim, dtype="bfloat16")  # fmt: skip
    request = Request(shape=shape, mask=Full())
    if reasons := forward.split_reasons(request, machine) + backward.split_reasons(request, machine):
        return "; ".join(reasons)
    torch.manual_seed(0)
    options = {"device": "cuda", "dtype": torch.bfloat16}
    q, dout = (torch.randn(BATCH, seq_len, HEADS, head_dim, **options) for _ in range(2))
    k, v = (torch.randn(BATCH, KEYS, kv_heads, head_dim, **options) for _ in range(2))
    out, lse = forward.split(request, machine).forward(q, k, v)
    back = backward.split(request, machine).backward
    assert back is not None
    first = [each.clone() for each in back(dout, q, k, v, out, lse)]
    differing, largest = [0, 0, 0], [0.0, 0.0, 0.0]
    for run in range(RUNS):
        torch.full((1 << 20,), (run % 3 - 1) * 1e4, device="cuda")  # freed at once
        for index, grad in enumerate(back(dout, q, k, v, out, lse)):
            if not torch.equal(grad, first[index]):
                differing[index] += 1
                largest[index] = max(largest[index], (grad.float() - first[index].float()).abs().max().item())
    found = zip("qkv", differing, largest, strict=True)
    said = [f"d{name} {n}/{RUNS} (at most {most:.2g})" for name, n, most in found]
    return f"lse strides {lse.stride()}: {', '.join(said)}"


if __name__ == "__main__":
    main()
