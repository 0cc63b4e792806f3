"""What verification at first use takes: the first kind in a process, later kinds, and where they are found kept.

python scripts/verification_cost.py [--backend flash2 …] [--device cpu]

Each backend has processes of its own with an empty cache and no shipped certificate.  Times are those that the layer
logs; the first includes what any first call of the process's libraries takes.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

KINDS = ((64, "causal"), (128, "causal"), (96, "causal"), (64, "full"), (128, "full"))
CODE = """
import json, logging, sys, torch
logging.basicConfig(level=logging.INFO)
import attn_lab.nn.verification as verification
from attn_lab import Attention
verification.shipped = lambda: ()
device, dtype = sys.argv[2], torch.float32 if sys.argv[2] == "cpu" else torch.bfloat16
for head_dim, mask in json.loads(sys.argv[3]):
    layer = Attention(16 * head_dim, 16, 4, backend=sys.argv[1], mask=mask).to(device, dtype)
    layer(torch.randn(2, 256, 16 * head_dim, device=device, dtype=dtype)).sum().backward()
"""


def logged(backend: str, device: str, cache: str) -> list[int]:
    """Milliseconds of each verification that a process logs."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, backend, device, json.dumps(KINDS)], capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_CACHE_HOME": cache},
    )  # fmt: skip
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1])
    return [int(ms) for ms in re.findall(r"verified at .* in (\d+) ms", done.stderr)]


def main() -> None:
    """Print a line for each backend."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", nargs="+", default=["flash2", "sdpa_cudnn", "sdpa_flash", "sdpa_math"])
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    for backend in given.backend:
        with tempfile.TemporaryDirectory() as cache:
            first, second = (logged(backend, given.device, cache) for _ in range(2))
        print(f"! {backend}: first kind {first[:1]} ms, later kinds {first[1:]} ms, next process {second}")


if __name__ == "__main__":
    main()
