"""The layer on a GPU: every feature with every backend there, against the naive one in float32."""

import copy

import pytest
import torch

from attn_lab import Attention
from attn_lab.core.errors import Refused
from attn_lab.core.machine import detect
from attn_lab.layer.names import backend_names, backends_named
from attn_lab.masks.sliding_window import SlidingWindow

pytestmark = pytest.mark.gpu

FEATURES = {
    "plain": {},
    "grouped": {"num_kv_heads": 2},
    "rope and norms": {"rope": 10000.0, "qk_norm": True, "bias": True},
    "window": {"mask": SlidingWindow(window=50)},
    "full": {"mask": "full"},
}


def pair(name: str, **options) -> tuple[Attention, Attention]:
    """The layer in bfloat16 with this backend, and its float32 copy with the naive one."""
    reasons = backends_named(name)[0].machine_refusals(detect("cuda"))
    if reasons:
        pytest.skip("; ".join(reasons))
    layer = Attention(256, 4, backend=name, **options).to("cuda", torch.bfloat16)
    exact = copy.deepcopy(layer).float()
    exact.backend = "naive"
    return layer, exact


def close(ours: torch.Tensor, exact: torch.Tensor) -> None:
    torch.testing.assert_close(ours.float(), exact, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("feature", list(FEATURES))
@pytest.mark.parametrize("name", backend_names())
def test_every_feature_with_every_backend_that_has_it(name, feature):
    layer, exact = pair(name, **FEATURES[feature])
    x = torch.randn(2, 128, 256, device="cuda", dtype=torch.bfloat16, requires_grad=name != "flash3")
    layer.requires_grad_(name != "flash3")  # PyPI's is forward only
    try:
        out = layer(x)
    except Refused as refused:
        pytest.skip(str(refused))
    wide = x.detach().float().requires_grad_()
    expected = exact(wide)
    close(out, expected)
    if x.requires_grad:
        cotangent = torch.randn_like(out)
        close(torch.autograd.grad(out, x, cotangent)[0], torch.autograd.grad(expected, wide, cotangent.float())[0])


@pytest.mark.parametrize("name", backend_names())
def test_a_prompt_and_then_token_by_token_is_the_whole_at_once(name):
    layer, exact = pair(name, rope=10000.0, num_kv_heads=2)
    x = torch.randn(2, 40, 256, device="cuda", dtype=torch.bfloat16)
    cache = layer.new_cache(2, 40)
    try:
        with torch.no_grad():
            parts = [layer(piece, cache=cache) for piece in x.split((37, 1, 1, 1), dim=1)]
            close(torch.cat(parts, dim=1), exact(x.float()))
    except Refused as refused:
        pytest.skip(str(refused))


@pytest.mark.parametrize("mask", ["causal", "full", SlidingWindow(window=20)])
@pytest.mark.parametrize("name", ["flash2", "sdpa_efficient", "sdpa_cudnn", "flex"])
def test_packed_documents_are_each_for_itself(name, mask):
    layer, exact = pair(name, mask=mask, rope=10000.0)
    bounds = torch.tensor([0, 100, 101, 180, 256], device="cuda", dtype=torch.int32)
    x = torch.randn(1, 256, 256, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        close(layer(x, cu_seqlens=bounds), torch.cat([exact(part.float()) for part in x.split((100, 1, 79, 76), 1)], 1))


@pytest.mark.parametrize("name", ["naive", "sdpa_math", "sdpa_flash", "sdpa_efficient", "sdpa_cudnn", "flash2"])
def test_dropout_drops_in_training_alone_and_keeps_the_mean(name):
    layer, exact = pair(name, dropout=0.3)
    x = torch.randn(1, 16, 256, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        close(layer.eval()(x), exact.eval()(x.float()))
        layer.train()
        assert not torch.equal(layer(x), layer(x))
        close(layer(x.expand(2000, 16, 256)).float().mean(0, keepdim=True), exact(x.float()))


@pytest.mark.parametrize("name", ["naive", "sdpa_math", "sdpa_flash", "sdpa_efficient", "sdpa_cudnn", "flash2", "flex"])
def test_it_compiles_in_one_piece_and_is_captured_in_a_cuda_graph(name):
    layer, exact = pair(name, rope=10000.0, qk_norm=True)
    x = torch.randn(2, 128, 256, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        close(torch.compile(layer, fullgraph=True)(x), exact(x.float()))
        layer(x)  # prepared, compiled and warm before the capture
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = layer(x)
        x.copy_(torch.randn_like(x))
        graph.replay()
        close(out, exact(x.float()))


@pytest.mark.parametrize("name", ["sdpa_flash", "sdpa_cudnn"])
def test_it_takes_its_preparations_to_another_device_and_back(name):
    layer, _ = pair(name, rope=10000.0)
    x = torch.randn(1, 16, 256, dtype=torch.bfloat16)
    layer.backend = [name, "naive"]
    on_gpu = layer(x.cuda())
    close(layer.cpu()(x), on_gpu.float().cpu())
    assert torch.equal(layer.cuda()(x.cuda()), on_gpu)
