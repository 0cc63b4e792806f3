"""Lengths left open, fake and meta tensors: what torch traces or only sizes up is right, and leaves nothing behind."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from attn_lab import Attention, convert
from attn_lab.core.errors import BadRequest
from attn_lab.masks.prefix_lm import PrefixLM
from attn_lab.masks.sliding_window import SlidingWindow
from attn_lab.nn.dispatcher import Dispatcher

close = torch.testing.assert_close
CPU_BACKENDS = ("naive", "naive_fp32", "sdpa_math", "sdpa_flash")
ALL = {"num_kv_heads": 2, "rope": 10000.0, "qk_norm": True, "bias": True}
MASKS = ["causal", "full", SlidingWindow(window=3), PrefixLM(prefix=4)]


def counted():
    graphs = []
    torch._dynamo.reset()
    return graphs, lambda graph, inputs: graphs.append(graph) or graph.forward


@pytest.mark.parametrize("backend", ["naive", "sdpa_math", ["flash2", "sdpa_flash"]], ids=str)
@pytest.mark.parametrize("mask", ["causal", SlidingWindow(window=3)], ids=repr)
def test_more_than_eight_lengths_compile_in_one_piece(backend, mask):
    layer = Attention(32, 4, backend=backend, mask=mask, **ALL)
    graphs, compiler = counted()
    compiled = torch.compile(layer, fullgraph=True, backend=compiler)
    for seq in range(4, 16):
        x = torch.randn(2, seq, 32, requires_grad=True)
        out, plain = compiled(x), layer(x)
        close(out, plain)
        close(torch.autograd.grad(out.sum(), x), torch.autograd.grad(plain.sum(), x))
    assert len(graphs) <= 2


@pytest.mark.parametrize("backend", ["naive_fp32", "sdpa_flash"])
@pytest.mark.parametrize("mask", MASKS, ids=repr)
@pytest.mark.parametrize("open_axes", [(1,), (0, 1), (0,)])
def test_axes_marked_dynamic_stay_open(backend, mask, open_axes):
    layer = Attention(32, 4, backend=backend, mask=mask, **ALL)
    graphs, compiler = counted()
    compiled = torch.compile(layer, fullgraph=True, backend=compiler)
    for batch, seq in ((3, 7), (2, 9), (5, 6)):
        x = torch.randn(batch if 0 in open_axes else 3, seq if 1 in open_axes else 7, 32)
        for axis in open_axes:
            torch._dynamo.mark_dynamic(x, axis)
        close(compiled(x), layer(x))
    assert len(graphs) == 1


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("backend", ["naive", "sdpa_flash"])
@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_it_is_exported_with_lengths_left_open(backend, strict, mask):
    layer = Attention(32, 4, backend=backend, mask=mask, **ALL).eval()
    open_sizes = {"x": {0: torch.export.Dim("batch", min=2, max=64), 1: torch.export.Dim("seq", min=2, max=4096)}}
    with torch.no_grad():
        exported = torch.export.export(
            layer, (torch.randn(2, 5, 32),), dynamic_shapes=open_sizes, strict=strict
        ).module()
        for batch, seq in ((2, 5), (3, 17), (7, 2)):
            x = torch.randn(batch, seq, 32)
            close(exported(x), layer(x))


def test_a_converted_model_is_exported_with_lengths_left_open():
    model = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    ours = convert(copy.deepcopy(model), backend="sdpa_flash")
    with torch.no_grad():
        exported = torch.export.export(
            ours, (torch.randn(2, 5, 32),), dynamic_shapes={"src": {1: torch.export.Dim("seq", min=2, max=512)}}
        ).module()
        x = torch.randn(2, 33, 32)
        close(exported(x), model(x))


def test_decoding_compiles_once_for_all_lengths():
    layer = Attention(32, 4, backend="sdpa_flash", **ALL)
    graphs, backend = counted()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    x = torch.randn(2, 30, 32)
    with torch.no_grad():
        whole, cache = layer(x), layer.new_cache(2, 30)
        parts = [compiled(piece, cache=cache) for piece in x.split((10, *(1,) * 20), dim=1)]
    close(torch.cat(parts, dim=1), whole)
    assert len(graphs) <= 4


def test_inductor_compiles_an_open_length():
    layer = Attention(32, 4, backend="sdpa_flash", mask=SlidingWindow(window=3), **ALL)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for seq in (5, 9, 33):
            x = torch.randn(2, seq, 32)
            close(compiled(x), layer(x))


# --- fake and meta tensors


def leftovers(layer):
    """Fake or meta tensors among all that the layer keeps."""
    found, seen = [], set()

    def look(thing):
        if id(thing) in seen:
            return
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            found.extend([thing] if isinstance(thing, FakeTensor) or thing.is_meta else [])
        elif isinstance(thing, dict):
            [look(each) for pair in thing.items() for each in pair]
        elif isinstance(thing, list | tuple | set):
            [look(each) for each in thing]
        elif callable(thing) and hasattr(thing, "__closure__"):
            [look(cell.cell_contents) for cell in thing.__closure__ or ()]
        elif type(thing).__module__.startswith("attn_lab"):
            look(vars(thing) if hasattr(thing, "__dict__") else {})

    look(vars(layer))
    return found


@pytest.mark.parametrize("backend", [*CPU_BACKENDS, "auto"])
@pytest.mark.parametrize("mask", ["causal", SlidingWindow(window=3), PrefixLM(prefix=4)], ids=repr)
@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "all"])
@pytest.mark.parametrize("before", [False, True])
def test_a_call_with_fake_tensors_leaves_nothing_fake_behind(backend, mask, options, before):
    layer = Attention(32, 4, backend=backend, mask=mask, **options)
    exact = copy.deepcopy(layer)
    exact.backend = "naive"
    x = torch.randn(2, 9, 32)
    if before:
        layer(x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(x)
        out = layer(fake)
        assert isinstance(out, FakeTensor) and out.shape == x.shape and out.device == x.device
        out.sum().backward()
        if mask != PrefixLM(prefix=4):
            layer(fake[:1], cu_seqlens=[0, 4, 9])
        with torch.no_grad():
            cache = layer.new_cache(2, 12)
            layer(fake, cache=cache)
            layer(fake[:, :1], cache=cache)
            if mask != PrefixLM(prefix=4):
                cache.lengths = [3, 9]
                assert layer(fake[:, :1], cache=cache).shape == (2, 1, 32)
    layer.zero_grad()
    assert not leftovers(layer)
    close(layer(x), exact(x))
    if mask != PrefixLM(prefix=4):
        close(layer(x[:1], cu_seqlens=[0, 4, 9]), exact(x[:1], cu_seqlens=[0, 4, 9]))


def test_a_model_made_of_fake_tensors_alone_is_sized_up():
    for backend in CPU_BACKENDS:
        with FakeTensorMode():
            layer = Attention(32, 4, backend=backend, mask=SlidingWindow(window=3), **ALL)
            assert layer(torch.randn(2, 9, 32)).shape == (2, 9, 32)


@pytest.mark.parametrize("backend", [*CPU_BACKENDS, "auto", "flash2"])
@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "all"])
def test_a_layer_on_the_meta_device_gives_sizes_and_moves_on(backend, options):
    with torch.device("meta"):
        layer = Attention(32, 4, backend=backend, **options)
        x = torch.randn(2, 9, 32)
    out = layer(x)
    assert out.is_meta and out.shape == x.shape
    out.sum().backward()
    assert all(each.grad is not None and each.grad.is_meta for each in layer.parameters())
    layer(x[:1], cu_seqlens=[0, 4, 9])
    with torch.no_grad():
        cache = layer.new_cache(2, 12)
        layer(x, cache=cache)
        assert layer(x[:, :1], cache=cache).shape == (2, 1, 32)
        cache.lengths = [3, 9]
        assert layer(x[:, :1], cache=cache).shape == (2, 1, 32)
    if backend == "flash2":
        return
    layer = layer.to_empty(device="cpu")
    for each in layer.parameters():
        torch.nn.init.normal_(each, std=0.1)
    layer.zero_grad(set_to_none=True)
    exact = Attention(32, 4, backend="naive", **options)
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(2, 9, 32)
    close(layer(x), exact(x))
    close(layer(x[:1], cu_seqlens=[0, 4, 9]), exact(x[:1], cu_seqlens=[0, 4, 9]))


@pytest.mark.parametrize("backend", [*CPU_BACKENDS, "auto"])
@pytest.mark.parametrize("mask", ["causal", PrefixLM(prefix=4)], ids=repr)
def test_a_default_device_of_meta_changes_nothing_for_real_tensors(backend, mask):
    layer = Attention(32, 4, backend=backend, mask=mask, **ALL)
    exact = copy.deepcopy(layer)
    exact.backend = "naive"
    x = torch.randn(2, 9, 32)
    torch.set_default_device("meta")
    try:
        out = layer(x)
        with torch.no_grad():
            cache = layer.new_cache(2, 12)
            parts = torch.cat([layer(piece, cache=cache) for piece in x.split((4, 4, 1), dim=1)], dim=1)
        if mask == "causal":
            packed = layer(x[:1], cu_seqlens=[0, 4, 9])
    finally:
        torch.set_default_device(None)
    assert not leftovers(layer)
    close(out, exact(x))
    close(parts, exact(x))
    if mask == "causal":
        close(packed, exact(x[:1], cu_seqlens=[0, 4, 9]))


def test_what_counts_operations_counts_those_of_the_call_alone():
    layer = Attention(32, 4, backend="sdpa_flash", mask=SlidingWindow(window=3))
    x = torch.randn(2, 9, 32)
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            layer(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_boundaries_that_are_fake_are_one_clear_line():
    layer = Attention(32, 4, backend="naive")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x, bounds = (mode.from_tensor(each) for each in (torch.randn(1, 9, 32), torch.tensor([0, 4, 9])))
        with pytest.raises(BadRequest, match="cu_seqlens: expected boundaries with data; got a tensor without"):
            layer(x, cu_seqlens=bounds)
    with pytest.raises(BadRequest, match="cu_seqlens: expected boundaries with data; got a tensor without"):
        layer(torch.randn(1, 9, 32), cu_seqlens=torch.tensor([0, 4, 9], device="meta"))


def test_tensors_of_two_devices_are_still_refused():
    q, k = torch.randn(1, 4, 2, 8), torch.randn(1, 4, 2, 8, device="meta")
    with pytest.raises(BadRequest, match="expected one dtype and one device"):
        Dispatcher(Attention(16, 2, backend="naive")._dispatcher.backends, Attention(16, 2).mask)(q, k, k)
