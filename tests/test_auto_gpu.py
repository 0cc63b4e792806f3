"""backend="auto" on a GPU: what it measures on the spot, what a graph's capture is told, and that it is fast."""

import pytest
import torch

from attn_lab import Attention
from attn_lab.core.backend import backend_name
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import detect
from attn_lab.nn.auto.bucket import Bucket
from attn_lab.nn.auto.cache import LEVEL, AutotuneCache
from attn_lab.nn.auto.table import DispatchTable, Entry, Ranking, shipped

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def unplanned(tmp_path, monkeypatch):
    """As on a GPU that no table was shipped for, with nothing in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("attn_lab.nn.auto.table.SHIPPED", tmp_path)
    shipped.cache_clear()
    yield
    shipped.cache_clear()


def x(seq: int = 1024) -> torch.Tensor:
    return torch.randn(4, seq, 1024, device="cuda", dtype=torch.bfloat16)


def layer(**options) -> Attention:
    return Attention(1024, 16, **options).to("cuda", torch.bfloat16)


def test_it_measures_every_ready_kernel_once_and_takes_one_that_is_right():
    auto = layer()
    given = x()
    out = auto(given)
    (choice,) = auto.choices
    (entry,) = AutotuneCache.of(detect("cuda")).table.entries.values()
    ranking = entry.passes["forward_backward"].ms
    assert backend_name(choice.backend) == next(iter(ranking)) and {
        "sdpa_flash",
        "sdpa_cudnn",
        "sdpa_efficient",
    } <= set(ranking)
    assert min(ranking.values()) * LEVEL >= next(iter(ranking.values())) > 0
    assert all("not installed" in why for why in entry.could_not.values()), "who is there was measured, and could"
    auto.backend = "naive_fp32"
    torch.testing.assert_close(out, auto(given), atol=0.03, rtol=0.03)


def test_under_a_capture_a_question_that_was_asked_is_served_and_a_new_one_refused():
    auto = layer()
    with torch.no_grad():
        given = x()
        for _ in range(3):
            auto(given)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = auto(given)
        given.copy_(x())
        graph.replay()
        torch.testing.assert_close(out, auto(given), atol=0.01, rtol=0.01)
        other = x(512)
        told = "in a CUDA graph's capture; got a new one"
        with pytest.raises(BadRequest, match=told), torch.cuda.graph(torch.cuda.CUDAGraph()):
            auto(other)


def test_a_pair_is_planned_and_followed_in_one_compiled_graph():
    gpu = detect("cuda").name
    bucket = Bucket("causal", "bfloat16", 64, 1, 64, 1024, 1024)
    ranking = Ranking({"sdpa_cudnn+sdpa_flash": 1.0, "sdpa_flash": 1.1}, "1 ms")
    auto = layer(table=DispatchTable(gpu, {bucket: Entry({"forward_backward": ranking})}))
    given = x().requires_grad_()
    out = torch.compile(auto, fullgraph=True)(given)
    assert backend_name(auto.backend) == "sdpa_cudnn+sdpa_flash"
    (gradient,) = torch.autograd.grad(out.sum(), given)
    auto.backend = "naive_fp32"
    torch.testing.assert_close(gradient, torch.autograd.grad(auto(given).sum(), given)[0], atol=0.1, rtol=0.1)
