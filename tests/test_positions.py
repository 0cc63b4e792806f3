"""Where tokens stand: rotary positions, packed documents and decoding say what one plain sequence says."""

import math
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_lab import Attention
from attn_lab.backends.flash2 import Flash2
from attn_lab.backends.flash3 import Flash3
from attn_lab.backends.flash4 import Flash4
from attn_lab.backends.naive import Naive
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine, detect
from attn_lab.core.mask import Mask, dense
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.masks.full import Full
from attn_lab.masks.prefix_lm import PrefixLM
from attn_lab.masks.sliding_window import SlidingWindow
from attn_lab.nn.documents import Documents
from attn_lab.nn.rope import Rope, apply_rotary

close = torch.testing.assert_close


def rotated_by_complex_numbers(x, positions, base):
    """RoPE as the paper has it, each pair of channels a complex number; the pair is (i, i + d/2)."""
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    turns = [[complex(math.cos(p * base ** (-i / half)), math.sin(p * base ** (-i / half))) for i in range(half)]
             for p in positions]  # fmt: skip
    pairs = pairs * torch.tensor(turns, dtype=torch.complex128)[:, None]
    return torch.cat((pairs.real, pairs.imag), dim=-1)


@pytest.mark.parametrize(("base", "head_dim", "first"), [(10000.0, 16, 0), (500000.0, 8, 131071), (2, 2, 5)])
def test_rope_turns_pairs_of_channels_as_complex_numbers_turn(base, head_dim, first):
    x = torch.randn(2, 7, 3, head_dim)
    positions = torch.arange(first, first + 7)
    ours = apply_rotary(x, Rope(base).turn(positions, head_dim, torch.float32))
    close(ours.double(), rotated_by_complex_numbers(x, positions.tolist(), base), atol=2e-6, rtol=0)


def test_rope_lets_scores_see_only_the_distance():
    rope = Rope(dims=12)
    q, k = torch.randn(1, 1, 1, 16, dtype=torch.float64), torch.randn(1, 1, 1, 16, dtype=torch.float64)

    def score(query: int, key: int) -> float:
        both = [apply_rotary(x, rope.turn(torch.tensor([at]), 16, torch.float64)) for x, at in ((q, query), (k, key))]
        return (both[0] * both[1]).sum().item()

    assert score(9, 4) == pytest.approx(score(1009, 1004), abs=1e-9)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)
    untouched = apply_rotary(q, rope.turn(torch.tensor([9]), 16, torch.float64))
    assert torch.equal(untouched[..., 12:], q[..., 12:])


def test_a_layer_with_rope_is_attention_over_rotated_heads():
    layer = Attention(32, 4, 2, backend="naive", rope=10000.0).double()
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    heads = layer.qkv(x).view(2, 9, 8, 8)
    q, k = (rotated_by_complex_numbers(part, range(9), 10000.0) for part in (heads[:, :, :4], heads[:, :, 4:6]))
    q, k, v = (part.transpose(1, 2) for part in (q, k, heads[:, :, 6:]))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    close(layer.float()(x.float()), layer.out(out.transpose(1, 2).reshape(2, 9, 32).float()))


@pytest.mark.parametrize("rope", [1, True, "10000", -3.0, math.nan, math.inf])
def test_a_base_that_turns_nothing_is_refused(rope):
    with pytest.raises(BadRequest, match=r"rope\.base"):
        Attention(32, 4, backend="naive", rope=rope)


@pytest.mark.parametrize(("head_dim", "dims"), [(7, None), (8, 10), (8, 3)])
def test_channels_that_make_no_pairs_are_refused(head_dim, dims):
    with pytest.raises(BadRequest, match=r"rope\.dims"):
        Attention(32, 4, backend="naive", head_dim=head_dim, rope=Rope(dims=dims))


@pytest.mark.parametrize("backend", ["naive", "sdpa_flash"])
@pytest.mark.parametrize("mask", [Causal(), SlidingWindow(window=3), PrefixLM(prefix=4)], ids=repr)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_kv_heads": 1}, {"rope": 10000.0, "qk_norm": True, "num_kv_heads": 2}],
    ids=["plain", "one kv head", "all"],
)
def test_a_prompt_and_then_token_by_token_is_the_whole_at_once(backend, mask, options):
    layer = Attention(32, 4, backend=backend, mask=mask, **options)
    x = torch.randn(2, 11, 32)
    with torch.no_grad():
        whole, cache = layer(x), layer.new_cache(2, 11)
        parts = [layer(piece, cache=cache) for piece in x.split((5, 3, 1, 1, 1), dim=1)]
    close(torch.cat(parts, dim=1), whole)
    assert cache.length == 11


def test_a_cache_made_under_autocast_holds_what_the_layer_gives_there():
    layer = Attention(32, 4, backend="sdpa_flash", rope=10000.0, qk_norm=True)
    x = torch.randn(2, 6, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cache = layer.new_cache(2, 6)
        parts = [layer(piece, cache=cache) for piece in x.split((4, 1, 1), dim=1)]
        close(torch.cat(parts, dim=1), layer(x), atol=0.02, rtol=0.02)
    with torch.no_grad(), pytest.raises(BadRequest, match="new_cache, called as the layer is, makes one that fits"):
        layer(x, cache=cache)


@pytest.mark.parametrize("sizes", [(-1, 4), (2, 0), (2, 4.5), (2, "8"), (True, 4)])
def test_room_for_nothing_is_no_cache(sizes):
    with pytest.raises(BadRequest, match="cache: expected whole numbers, of at least 0"):
        Attention(32, 4, backend="naive").new_cache(*sizes)


def test_what_was_said_last_can_be_taken_back():
    layer = Attention(32, 4, backend="naive", rope=10000.0)
    x = torch.randn(1, 6, 32)
    with torch.inference_mode():
        cache = layer.new_cache(1, 8)
        layer(x, cache=cache)
        layer(torch.randn(1, 2, 32), cache=cache)
        cache.length = 6
        token = torch.randn(1, 1, 32)
        close(layer(token, cache=cache), layer(torch.cat((x, token), dim=1))[:, -1:])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"batch": 3}, "expected batch 2.*got batch 3"),
        ({"seq": 9}, "at most 8 positions; got 0 and 9 more"),
        ({"grad": True}, "without gradients"),
        ({"mask": "full"}, "see no later one; got Full"),
        ({"mask": PrefixLM(prefix=6)}, "first 5 positions see no later one"),
        ({"cu_seqlens": [0, 5]}, "expected one of them"),
        ({"dtype": torch.float64}, "expected torch.float64|float32 on cpu.*got"),
    ],
)
def test_a_cache_that_does_not_fit_is_refused_and_left_as_it_was(change, told):
    layer = Attention(32, 4, backend="naive", mask=change.get("mask", "causal"))
    cache = layer.new_cache(2, 8)
    layer = layer.to(change.get("dtype", torch.float32))
    x = torch.randn(change.get("batch", 2), change.get("seq", 5), 32, dtype=change.get("dtype", torch.float32))
    with torch.set_grad_enabled("grad" in change), pytest.raises(BadRequest, match=told):
        layer(x, cache=cache, cu_seqlens=change.get("cu_seqlens"))
    assert cache.length == 0


def test_a_refused_backend_leaves_the_cache_as_it_was():
    layer = Attention(32, 4, backend="flash2")
    cache = layer.new_cache(1, 8)
    with torch.no_grad(), pytest.raises(Exception, match="Flash2 refuses"):
        layer(torch.randn(1, 5, 32), cache=cache)
    assert cache.length == 0


@pytest.mark.parametrize("backend", ["naive", "sdpa_flash"])
@pytest.mark.parametrize("mask", [Causal(), Full(), SlidingWindow(window=3)], ids=repr)
@pytest.mark.parametrize("rope", [None, 10000.0])
def test_packed_documents_are_each_for_itself(backend, mask, rope):
    layer = Attention(32, 4, 2, backend=backend, mask=mask, rope=rope)
    lengths = [5, 1, 8, 2]
    x = torch.randn(1, 16, 32, requires_grad=True)
    packed = layer(x, cu_seqlens=torch.tensor([0, 5, 6, 14, 16], dtype=torch.int32))
    apart = torch.cat([layer(document) for document in x.split(lengths, dim=1)], dim=1)
    close(packed, apart)
    cotangent = torch.randn_like(packed)
    close(torch.autograd.grad(packed, x, cotangent), torch.autograd.grad(apart, x, cotangent))


def test_packed_documents_break_the_compiled_graph_and_stay_right():
    layer = Attention(32, 4, backend="sdpa_flash", rope=10000.0)
    x, bounds = torch.randn(1, 16, 32), torch.tensor([0, 5, 16])
    torch._dynamo.reset()
    with torch.no_grad():
        close(torch.compile(layer, backend="eager")(x, cu_seqlens=bounds), layer(x, cu_seqlens=bounds))
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported, match="cu_seqlens are read outside"):
            torch.compile(layer, fullgraph=True, backend="eager")(x, cu_seqlens=bounds)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_boundaries_written_over_in_place_are_read_again(mode):
    layer = Attention(32, 4, backend="naive")
    with mode():
        x, bounds = torch.randn(1, 8, 32), torch.tensor([0, 3, 8])
        layer(x, cu_seqlens=bounds)
        bounds[1] = 6
        close(layer(x, cu_seqlens=bounds), layer(x, cu_seqlens=[0, 6, 8]))
        bounds.numpy()[1] = 2  # which torch does not notice
        close(layer(x, cu_seqlens=bounds), layer(x, cu_seqlens=[0, 2, 8]))


def test_a_cache_made_in_inference_mode_serves_outside_of_it():
    layer = Attention(32, 4, backend="naive")
    x = torch.randn(1, 4, 32)
    with torch.inference_mode():
        cache = layer.new_cache(1, 4)
        layer(x[:, :3], cache=cache)
    with torch.no_grad():
        close(layer(x[:, 3:], cache=cache), layer(x)[:, 3:])


@pytest.mark.parametrize("bounds", [[0, 5], [1, 8], [0, 6, 4, 8], [0, True, 8], [], [0, 4.0, 8], [0, 9], 8])
def test_boundaries_that_are_none_are_refused(bounds):
    with pytest.raises(BadRequest, match="rising from 0 to seq=8"):
        Attention(32, 4, backend="naive")(torch.randn(1, 8, 32), cu_seqlens=bounds)


def test_boundaries_that_contradict_the_mask_or_the_batch_are_refused():
    with pytest.raises(BadRequest, match=r"only distances.*got PrefixLM"):
        Attention(32, 4, backend="naive", mask="prefix_lm")(torch.randn(1, 8, 32), cu_seqlens=[0, 8])
    with pytest.raises(BadRequest, match="one batch element; got batch 2"):
        Attention(32, 4, backend="naive")(torch.randn(2, 8, 32), cu_seqlens=[0, 8])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from([(None, None), (None, 0), (2, 0), (1, 3)]))
def test_documents_count_what_their_predicate_allows(lengths, band):
    total = sum(lengths)
    ends = tuple(sum(lengths[: index + 1]) for index in range(len(lengths)))
    mask = Documents(ends, band)
    label = [number for number, length in enumerate(lengths) for _ in range(length)]
    left, right = (total if side is None else side for side in band)
    expected = [[label[q] == label[k] and q - left <= k <= q + right for k in range(total)] for q in range(total)]
    shape = Shape(batch_size=1, seq_len=total, num_heads=1, emb_dim=4)
    assert dense(mask, shape, "cpu")[0, 0].tolist() == expected
    queries = torch.arange(total)
    assert mask.count(queries, total).tolist() == Mask.count(mask, queries, total).tolist()


def by_document(q, k, v, bounds, bounds_k, longest, longest_k, *, dropout_p, softmax_scale, causal, window_size):
    """flash_attn_varlen_func as its documentation has it: each document for itself, aligned bottom-right."""
    assert bounds.dtype == torch.int32 and bounds is bounds_k and longest == longest_k == bounds.diff().max()
    left, right = (0 if causal and side == 1 else width for side, width in enumerate(window_size))
    outs = []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        at = torch.arange(end - start)
        away = at[:, None] - at
        allowed = ((left < 0) | (away <= left)) & ((right < 0) | (-away <= right))
        parts = (each[start:end].transpose(0, 1) for each in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(
            *parts, attn_mask=allowed, dropout_p=dropout_p, scale=softmax_scale, enable_gqa=True
        )
        outs.append(out.transpose(0, 1))
    return torch.cat(outs)


@pytest.mark.parametrize("band", [(None, None), (None, 0), (2, 0)])
def test_flash2_is_told_of_documents_what_its_variable_length_kernel_needs(monkeypatch, band):
    """The wiring alone, on a CPU: a stand-in for the package; the kernels themselves need `-m gpu`."""
    package = ModuleType("flash_attn")
    package.flash_attn_func, package.flash_attn_varlen_func = None, by_document
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    shape = Shape(batch_size=1, seq_len=16, num_heads=4, num_kv_heads=2, emb_dim=32, dtype="float16")
    request = Request(shape=shape, mask=Documents((5, 6, 14, 16), band))
    h100 = Machine(device="cuda", name="H100", memory=2**36, capability=(9, 0), packages={"flash-attn": "2.8.3"})
    assert Flash2().unsupported_reasons(request, h100) == []
    q, k, v = (torch.randn(1, 16, heads, 8) for heads in (4, 2, 2))
    cpu = detect("cpu")
    close(Flash2().prepare(request, cpu)(q, k, v), Naive().prepare(request, cpu)(q, k, v))


def test_a_backend_without_variable_lengths_or_masks_refuses_documents():
    shape = Shape(batch_size=1, seq_len=16, num_heads=4, emb_dim=256, dtype="float16")
    request = Request(shape=shape, mask=Documents((5, 16), (None, 0)))
    h100 = Machine(
        device="cuda", name="H100", memory=2**36, capability=(9, 0),
        packages={"flash-attn-4": "4.0.0", "tokenspeed-fa3": "3.0.0"},
    )  # fmt: skip
    forward = replace(request, passes=("forward",))
    assert Flash3().unsupported_reasons(forward, h100) == ["mask kinds: full, causal, band; asked documents"]
    assert Flash4().unsupported_reasons(request, h100) == []
