"""The layer on a GPU: every feature with every backend there, against the naive one in float32."""

import copy
import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from attn_lab import Attention
from attn_lab.core.errors import Unsupported
from attn_lab.core.machine import detect
from attn_lab.masks.sliding_window import SlidingWindow
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.dispatcher import Dispatcher
from attn_lab.nn.registry import backend_names

pytestmark = pytest.mark.gpu

PAIRS = ["sdpa_cudnn+flash4", "flash4+sdpa_cudnn", "flash2+sdpa_flash", "naive+flash2"]
NAMES = [*backend_names(), *PAIRS]
TRACED = ["naive", "sdpa_math", "sdpa_flash", "sdpa_efficient", "sdpa_cudnn", "flash2", "flash4", "flex", *PAIRS]
FEATURES = {
    "plain": {},
    "grouped": {"num_kv_heads": 2},
    "rope and norms": {"rope": 10000.0, "qk_norm": True, "bias": True},
    "window": {"mask": SlidingWindow(window=50)},
    "full": {"mask": "full"},
}


def pair(name: str, **options) -> tuple[Attention, Attention]:
    """The layer in bfloat16 with this backend, and its float32 copy with the naive one."""
    reasons = backends_named(name)[0].machine_reasons(detect("cuda"))
    if reasons:
        pytest.skip("; ".join(reasons))
    layer = Attention(256, 4, backend=name, **options).to("cuda", torch.bfloat16)
    exact = copy.deepcopy(layer).float()
    exact.backend = "naive"
    return layer, exact


def close(ours: torch.Tensor, exact: torch.Tensor) -> None:
    torch.testing.assert_close(ours.float(), exact, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("feature", list(FEATURES))
@pytest.mark.parametrize("name", NAMES)
def test_every_feature_with_every_backend_that_has_it(name, feature):
    layer, exact = pair(name, **FEATURES[feature])
    x = torch.randn(2, 128, 256, device="cuda", dtype=torch.bfloat16, requires_grad=name != "flash3")
    layer.requires_grad_(name != "flash3")  # PyPI's is forward only
    try:
        out = layer(x)
    except Unsupported as refused:
        pytest.skip(str(refused))
    wide = x.detach().float().requires_grad_()
    expected = exact(wide)
    close(out, expected)
    if x.requires_grad:
        cotangent = torch.randn_like(out)
        close(torch.autograd.grad(out, x, cotangent)[0], torch.autograd.grad(expected, wide, cotangent.float())[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_and_then_token_by_token_is_the_whole_at_once(name):
    layer, exact = pair(name, rope=10000.0, num_kv_heads=2)
    x = torch.randn(2, 40, 256, device="cuda", dtype=torch.bfloat16)
    cache = layer.new_cache(2, 40)
    try:
        with torch.no_grad():
            parts = [layer(piece, cache=cache) for piece in x.split((37, 1, 1, 1), dim=1)]
            close(torch.cat(parts, dim=1), exact(x.float()))
    except Unsupported as refused:
        pytest.skip(str(refused))


@pytest.mark.parametrize("mask", ["causal", "full", SlidingWindow(window=20)])
@pytest.mark.parametrize("name", ["flash2", "flash4", "sdpa_efficient", "sdpa_cudnn", "flex"])
def test_packed_documents_are_each_for_itself(name, mask):
    layer, exact = pair(name, mask=mask, rope=10000.0)
    bounds = torch.tensor([0, 100, 101, 180, 256], device="cuda", dtype=torch.int32)
    x = torch.randn(1, 256, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    wide = x.detach().float().requires_grad_()
    out, expected = layer(x, cu_seqlens=bounds), torch.cat([exact(part) for part in wide.split((100, 1, 79, 76), 1)], 1)
    close(out, expected)
    cotangent = torch.randn_like(out)
    close(torch.autograd.grad(out, x, cotangent)[0], torch.autograd.grad(expected, wide, cotangent.float())[0])


@pytest.mark.parametrize("name", ["naive", "sdpa_math", "sdpa_flash", "sdpa_efficient", "sdpa_cudnn", "flash2"])
def test_dropout_drops_in_training_alone_and_keeps_the_mean(name):
    layer, exact = pair(name, dropout=0.3)
    x = torch.randn(1, 16, 256, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        close(layer.eval()(x), exact.eval()(x.float()))
        layer.train()
        assert not torch.equal(layer(x), layer(x))
        close(layer(x.expand(2000, 16, 256)).float().mean(0, keepdim=True), exact(x.float()))


def step(layer: torch.nn.Module, x: torch.Tensor, cotangent: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Output, and gradients of the input and of every weight."""
    out = layer(x)
    return out, *torch.autograd.grad(out, [x, *layer.parameters()], cotangent.to(out.dtype))


def all_close(ours: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...]) -> None:
    """Each within 3 % of the largest there: gradients of weights are sums over every position."""
    for one, other in zip(ours, exact, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one.float(), other.float(), atol=0.03 * max(scale, 1), rtol=0.03)


@pytest.mark.parametrize(("name", "feature"), [*((name, "plain") for name in TRACED), (PAIRS[0], "rope and norms")])
def test_a_step_compiles_in_one_piece(name, feature):
    torch._dynamo.reset()  # all layers are one code to it, of which it compiles eight
    layer, exact = pair(name, **FEATURES[feature])
    x = torch.randn(2, 128, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    cotangent = torch.randn_like(x)
    expected = step(exact, x.detach().float().requires_grad_(), cotangent)
    compiled = torch.compile(layer, fullgraph=True)
    all_close(step(compiled, x, cotangent), expected)
    with torch.no_grad():
        close(compiled(x), expected[0])


@pytest.mark.parametrize("name", TRACED)
def test_inference_and_a_step_are_captured_in_cuda_graphs(name):
    layer, exact = pair(name)
    x = torch.randn(2, 128, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    cotangent = torch.randn_like(x)
    for run in (lambda: (layer(x.detach()),), lambda: step(layer, x, cotangent)):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # prepared, compiled and warm before the capture
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            seen = run()
        with torch.no_grad():
            x.copy_(torch.randn_like(x))
        graph.replay()
        wide = x.detach().float().requires_grad_()
        all_close(seen, step(exact, wide, cotangent)[: len(seen)])


@pytest.mark.parametrize("name", ["sdpa_flash", "sdpa_cudnn", "flash2", "flash4", *PAIRS])
def test_a_step_is_the_same_checkpointed_and_under_autocast(name):
    layer, exact = pair(name)
    x = torch.randn(2, 128, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    cotangent = torch.randn_like(x)
    wide = x.detach().float().requires_grad_()
    expected = step(exact, wide, cotangent)
    kept = checkpoint(layer, x, use_reentrant=False)
    all_close((kept, *torch.autograd.grad(kept, [x, *layer.parameters()], cotangent)), expected)
    exact.backend = name
    with torch.autocast("cuda", torch.bfloat16):
        out = exact(wide)
    assert out.dtype == torch.bfloat16
    all_close((out, *torch.autograd.grad(out, [wide, *exact.parameters()], cotangent)), expected)


@pytest.mark.parametrize("name", ["sdpa_flash", "sdpa_efficient", "sdpa_cudnn", "flash2", "flash4", *PAIRS])
def test_a_gradient_laid_out_otherwise_than_the_first_is_not_misread(name):
    """torch keeps cuDNN's graphs by the layout of q, k and v alone."""
    layer, _ = pair(name)
    q, k, v = torch.randn(3, 2, 128, 4, 64, device="cuda", dtype=torch.bfloat16).unbind()
    for leaf in (q, k, v):
        leaf.requires_grad_()
    dout = torch.randn_like(q)
    apart = dout.transpose(1, 2).contiguous().transpose(1, 2)
    spread = dout[:, :, :1, :1].expand(q.shape)

    def grads(name: str, dout: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (backend,) = backends_named(name)
        out = Dispatcher((backend,), layer.mask)(q, k, v)(q, k, v)
        return torch.autograd.grad(out, (q, k, v), dout)

    for each in (dout, apart, spread, dout):
        all_close(grads(name, each), grads("naive_fp32", each))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "auto"])
def test_a_nan_reaches_every_query_that_sees_it_and_no_other_batch_element(name):
    layer, _ = pair(name)
    x = torch.randn(2, 600, 256, device="cuda", dtype=torch.bfloat16)
    x[0, 300] = float("nan")
    with torch.no_grad():
        out = layer(x)
    assert out[0, 300:].isnan().all() and out[1].isfinite().all()


HUGE = """
import sys
from attn_lab.core.request import Request
from attn_lab.core.machine import detect
from attn_lab.core.shape import Shape
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.masks.causal import Causal
from attn_lab.measure.probes.accuracy import Accuracy
from attn_lab.measure.subjects.kernel import Kernel

(backend,), machine = backends_named(sys.argv[1]), detect("cuda")
shape = Shape(batch_size=8193, seq_len=128, num_heads=16, num_kv_heads=1, head_dim=128, emb_dim=2048)
request = Request(shape=shape, mask=Causal())
assert shape.batch_size * shape.seq_len * shape.num_heads * shape.head_dim > 2**31
if reasons := backend.unsupported_reasons(request, machine):
    print("refused:", "; ".join(reasons))
else:
    prepared = Kernel().stage(request, backend, backend.prepare(request, machine), machine, seed=0, slices=2)
    print("right:", [f"{m.name} {m.value:.2f}" for m in Accuracy().measure(prepared)])
"""


def test_tensors_of_more_than_2_to_the_31_elements_are_right_or_refused():
    """One after another, each in a process of its own: they take half the card, and a fault would end the others."""
    told = {}
    for name in ("sdpa_flash", "sdpa_cudnn", "flash2", "flash4"):
        if backends_named(name)[0].machine_reasons(detect("cuda")):
            continue
        done = subprocess.run([sys.executable, "-c", HUGE, name], capture_output=True, text=True, timeout=120)
        told[name] = (done.stdout + done.stderr[-500:]).strip()
    print(told)
    assert told and all(each.startswith(("right:", "refused:")) for each in told.values()), told


@pytest.mark.parametrize("name", ["sdpa_flash", "sdpa_cudnn"])
def test_it_takes_its_preparations_to_another_device_and_back(name):
    layer, _ = pair(name, rope=10000.0)
    x = torch.randn(1, 16, 256, dtype=torch.bfloat16)
    layer.backend = [name, "naive"]
    on_gpu = layer(x.cuda())
    close(layer.cpu()(x), on_gpu.float().cpu())
    assert torch.equal(layer.cuda()(x.cuda()), on_gpu)
