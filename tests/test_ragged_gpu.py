"""On a GPU: queries and keys with boundaries of their own, a length for each sequence, by kernels that have them."""

import pytest
import torch

from attn_lab import Attention
from attn_lab.core.errors import Unsupported
from attn_lab.masks.causal import Causal
from attn_lab.masks.full import Full
from attn_lab.masks.sliding_window import SlidingWindow
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.dispatcher import Dispatcher
from attn_lab.nn.documents import Documents

pytestmark = pytest.mark.gpu
MASKS = [Causal(), Full(), SlidingWindow(window=20)]


def close(ours, exact):
    torch.testing.assert_close(ours.float(), exact.float(), atol=0.02 * max(exact.abs().max().item(), 1), rtol=0.02)


@pytest.mark.parametrize("mask", MASKS, ids=repr)
@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("name", ["flash2", "flash4", "sdpa_flash", "naive"])
@pytest.mark.parametrize(
    ("bounds", "bounds_k"), [([0, 100, 101, 256], [0, 180, 190, 400]), ([0, 64, 64, 256], [0, 64, 90, 282])]
)
def test_queries_and_keys_have_boundaries_of_their_own(name, kv_heads, mask, bounds, bounds_k):
    options = {"device": "cuda", "dtype": torch.bfloat16, "requires_grad": True}
    q = torch.randn(1, bounds[-1], 4, 64, **options)
    k, v = (torch.randn(1, bounds_k[-1], kv_heads, 64, **options) for _ in "kv")
    documents = Documents.of(bounds, bounds[-1], mask, cu_seqlens_k=bounds_k, total_k=bounds_k[-1])
    try:
        out = Dispatcher(backends_named(name), mask).under(lambda: documents, q, k, v)
    except Unsupported as refused:
        pytest.skip(str(refused))
    wide = [each.detach().float().requires_grad_() for each in (q, k, v)]
    exact = Dispatcher(backends_named("naive_fp32"), mask).under(lambda: documents, *wide)
    close(out, exact)
    cotangent = torch.randn_like(out)
    for one, other in zip(torch.autograd.grad(out, (q, k, v), cotangent),
                          torch.autograd.grad(exact, wide, cotangent.float()), strict=True):  # fmt: skip
        close(one, other)


@pytest.mark.parametrize("mask", [Causal(), SlidingWindow(window=20)], ids=repr)
@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("name", ["flash2", "flash4", "naive", "sdpa_math"])
def test_each_sequence_goes_on_from_its_own_length(name, kv_heads, mask):
    layer = Attention(256, 4, kv_heads, backend=name, mask=mask, rope=10000.0).cuda().bfloat16()
    exact = Attention(256, 4, kv_heads, backend="naive_fp32", mask=mask, rope=10000.0).cuda()
    exact.load_state_dict(layer.state_dict())
    lengths, steps = [50, 2, 70, 1], [1, 1, 3, 1]
    whole = torch.randn(4, 80, 256, device="cuda", dtype=torch.bfloat16)
    try:
        with torch.no_grad():
            cache = layer.new_cache(4, 100)
            layer(whole[:, :70], cache=cache)
            cache.lengths = lengths
            done = 0
            for step in steps:
                at = [whole[row, length + done : length + done + step] for row, length in enumerate(lengths)]
                out = layer(torch.stack(at), cache=cache)
                for row, length in enumerate(lengths):
                    end = length + done + step
                    close(out[row], exact(whole[row : row + 1, :end].float())[0, -step:])
                done += step
    except Unsupported as refused:
        pytest.skip(str(refused))
