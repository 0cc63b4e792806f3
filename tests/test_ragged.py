"""Sequences of different lengths: queries and keys with boundaries of their own, a cache that holds each at its own."""

import sys
from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from attn_lab import Attention
from attn_lab.backends import sdpa_flash
from attn_lab.backends.flash2 import Flash2
from attn_lab.backends.flash4 import Flash4
from attn_lab.backends.naive import Naive
from attn_lab.backends.sdpa_flash import SdpaFlash
from attn_lab.core.errors import BadRequest, Unsupported
from attn_lab.core.machine import Machine, detect
from attn_lab.core.mask import Mask
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.masks.full import Full
from attn_lab.masks.prefix_lm import PrefixLM
from attn_lab.masks.sliding_window import SlidingWindow
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.dispatcher import Dispatcher
from attn_lab.nn.documents import Documents
from attn_lab.nn.ragged import Ragged

close = torch.testing.assert_close
CPU_BACKENDS = ("naive", "naive_fp32", "sdpa_math", "sdpa_flash")
MASKS = [Causal(), Full(), SlidingWindow(window=3)]
H100 = Machine(device="cuda", name="H100", memory=2**36, capability=(9, 0),
               packages={"torch": "2.13.0", "flash-attn": "2.8.3", "flash-attn-4": "4.0.0"})  # fmt: skip


def allowed(queries, keys, band):
    """Bottom-right aligned, as flash-attn's documentation has it."""
    away = torch.arange(queries)[:, None] + (keys - queries) - torch.arange(keys)
    left, right = band
    seen = torch.ones(queries, keys, dtype=torch.bool)
    seen &= away <= (keys + queries if left is None else left)
    return seen & (-away <= (keys + queries if right is None else right))


def one_by_one(q, k, v, bounds, bounds_k, band):
    """Each document for itself, over the batch element all are packed in; zero where a query sees nothing."""
    outs = []
    for (start, end), (start_k, end_k) in zip(pairwise(bounds), pairwise(bounds_k), strict=True):
        parts = (q[:, start:end], k[:, start_k:end_k], v[:, start_k:end_k])
        q1, k1, v1 = (each.transpose(1, 2) for each in parts)
        seen = allowed(end - start, end_k - start_k, band)
        out = scaled_dot_product_attention(q1, k1, v1, attn_mask=seen, enable_gqa=True).transpose(1, 2)
        outs.append(out.nan_to_num(0))
    return torch.cat(outs, dim=1)


# --- boundaries of queries and of keys


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("mask", MASKS, ids=repr)
@pytest.mark.parametrize(
    ("bounds", "bounds_k"),
    [([0, 3, 5, 9], [0, 4, 10, 15]), ([0, 3, 3, 9], [0, 5, 8, 20]), ([0, 1, 2, 3], [0, 7, 9, 10]), ([0, 4], [0, 4])],
)
def test_queries_and_keys_have_boundaries_of_their_own(backend, mask, bounds, bounds_k):
    q = torch.randn(1, bounds[-1], 4, 8, requires_grad=True)
    k, v = (torch.randn(1, bounds_k[-1], 2, 8, requires_grad=True) for _ in "kv")
    documents = Documents.of(
        np.array(bounds), bounds[-1], mask, cu_seqlens_k=torch.tensor(bounds_k), total_k=bounds_k[-1]
    )
    out = Dispatcher(backends_named(backend), mask).under(lambda: documents, q, k, v)
    expected = one_by_one(q, k, v, bounds, bounds_k, mask.band)
    close(out, expected)
    cotangent = torch.randn_like(out)
    for ours, theirs in zip(torch.autograd.grad(out, (q, k, v), cotangent),
                            torch.autograd.grad(expected, (q, k, v), cotangent), strict=True):  # fmt: skip
        close(ours, theirs)


@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_queries_of_a_document_without_keys_see_nothing(mask):
    bounds, bounds_k = [0, 3, 5, 9], [0, 4, 4, 6]
    q, k = torch.randn(1, 9, 4, 8), torch.randn(1, 6, 4, 8)
    documents = Documents.of(bounds, 9, mask, cu_seqlens_k=bounds_k, total_k=6)
    out = Dispatcher(backends_named(["naive", "sdpa_math"]), mask).under(lambda: documents, q, k, k)
    close(out, one_by_one(q, k, k, bounds, bounds_k, mask.band))
    assert not out[:, 3:5].any()
    with pytest.raises(Unsupported, match="queries that may attend to no key"):
        Dispatcher(backends_named("naive"), mask).under(lambda: documents, q, k, k)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=5),
       st.sampled_from([(None, None), (None, 0), (2, 0), (1, 3)]))  # fmt: skip
def test_documents_count_what_their_predicate_allows(lengths, band):
    ends = tuple(sum(q for q, _ in lengths[: at + 1]) for at in range(len(lengths)))
    ends_kv = tuple(sum(k for _, k in lengths[: at + 1]) for at in range(len(lengths)))
    if not ends[-1] or not ends_kv[-1]:
        return
    mask = Documents(ends, band, ends_kv)
    query = torch.arange(ends_kv[-1] - ends[-1], ends_kv[-1])
    assert mask.count(query, ends_kv[-1]).tolist() == Mask.count(mask, query, ends_kv[-1]).tolist()


@pytest.mark.parametrize(
    ("bounds_k", "total_k", "told"),
    [([0, 4], 4, "as many documents as cu_seqlens has, 2; got 1"), ([0, 4, 7], 8, "rising from 0 to the keys'=8"),
     ([0, 9, 8], 8, "rising from 0"), ([0, 4.0, 8], 8, "cu_seqlens_k: expected whole numbers")],
)  # fmt: skip
def test_boundaries_of_keys_that_contradict_are_refused(bounds_k, total_k, told):
    with pytest.raises(BadRequest, match=told):
        Documents.of([0, 3, 5], 5, Causal(), cu_seqlens_k=bounds_k, total_k=total_k)


# --- a cache with a length for each sequence


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("mask", [Causal(), SlidingWindow(window=3)], ids=repr)
@pytest.mark.parametrize("options", [{}, {"rope": 10000.0, "qk_norm": True, "num_kv_heads": 2}], ids=["plain", "all"])
def test_each_sequence_goes_on_from_its_own_length(backend, mask, options):
    layer = Attention(32, 4, backend=backend, mask=mask, **options)
    lengths, steps = [5, 2, 7, 1], [1, 1, 3, 1]
    whole = [torch.randn(1, length + sum(steps), 32) for length in lengths]
    prompt = torch.zeros(4, 7, 32)
    for row, (sequence, length) in enumerate(zip(whole, lengths, strict=True)):
        prompt[row, :length] = sequence[0, :length]
    with torch.no_grad():
        cache = layer.new_cache(4, 16)
        first = layer(prompt, cache=cache)
        cache.lengths = lengths
        parts, done = [], 0
        for step in steps:
            at = [
                sequence[:, length + done : length + done + step]
                for sequence, length in zip(whole, lengths, strict=True)
            ]
            parts.append(layer(torch.cat(at), cache=cache))
            done += step
        out = torch.cat(parts, dim=1)
        for row, (sequence, length) in enumerate(zip(whole, lengths, strict=True)):
            expected = layer(sequence)[0]
            close(first[row, :length], expected[:length])
            close(out[row], expected[length:])
    assert cache.lengths.tolist() == [length + done for length in lengths] and cache.length == 7 + done


@pytest.mark.parametrize("lengths", [[3, 1], (3, 1), np.array([3, 1]), torch.tensor([3, 1])], ids=str)
def test_lengths_come_in_any_form_and_are_taken_back(lengths):
    layer = Attention(32, 4, backend="naive", rope=10000.0)
    x, token = torch.randn(2, 4, 32), torch.randn(2, 1, 32)
    with torch.inference_mode():
        cache = layer.new_cache(2, 8)
        layer(x, cache=cache)
        cache.lengths = lengths
        out = layer(token, cache=cache)
        close(out[:1], layer(torch.cat((x[:1, :3], token[:1]), dim=1))[:, -1:])
        close(out[1:], layer(torch.cat((x[1:, :1], token[1:]), dim=1))[:, -1:])
        cache.length = 4
        assert cache.lengths is None
        layer(x, cache=cache)
        assert cache.length == 8


@pytest.mark.parametrize("lengths", [[3], [3, 9], [3, -1], [3, 1.0], 3, [3, True], [[3, 1]]], ids=str)
def test_lengths_that_fit_no_cache_are_refused(lengths):
    cache = Attention(32, 4, backend="naive").new_cache(2, 8)
    with pytest.raises(BadRequest, match=r"cache.lengths: expected 2 whole numbers from 0 to 8"):
        cache.lengths = lengths
    with pytest.raises(BadRequest, match=r"cache.length: expected a whole number from 0 to 8; got 5.0"):
        cache.length = 5.0


def test_what_a_ragged_cache_cannot_be_asked_is_one_clear_line():
    layer = Attention(32, 4, backend="naive", mask=PrefixLM(prefix=2), dropout=0.1).eval()
    with torch.no_grad():
        cache = layer.new_cache(2, 8)
        cache.lengths = [3, 1]
        with pytest.raises(BadRequest, match="knows only distances"):
            layer(torch.randn(2, 1, 32), cache=cache)
        layer = Attention(32, 4, backend="naive", dropout=0.1)
        with pytest.raises(Unsupported, match="forward only, without gradients or dropout"):
            layer(torch.randn(2, 1, 32), cache=cache)
        layer.backend = "flex"
        with pytest.raises(Unsupported, match="asked ragged"):
            layer.eval()(torch.randn(2, 1, 32), cache=cache)
    assert cache.lengths.tolist() == [3, 1] and cache.length == 3


# --- few questions


@pytest.mark.parametrize("backend", [*CPU_BACKENDS, "auto"])
@pytest.mark.parametrize("mask", [Causal(), SlidingWindow(window=5)], ids=repr)
@pytest.mark.parametrize("ragged", [False, True])
def test_a_token_more_is_no_new_question(backend, mask, ragged):
    layer = Attention(32, 4, backend=backend, mask=mask)
    with torch.no_grad():
        cache = layer.new_cache(2, 200)
        layer(torch.randn(2, 10, 32), cache=cache)
        if ragged:
            cache.lengths = [10, 3]
        before = len(layer.choices)
        for _ in range(150):
            layer(torch.randn(2, 1, 32), cache=cache)
    assert len(layer.choices) - before <= 5  # 16, 32, 64, 128, 256 keys


def test_flex_compiles_one_function_for_decoding():
    layer = Attention(128, 4, backend="flex", mask="causal", verify=False)  # which compiles its own small case
    exact = Attention(128, 4, backend="naive")
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(2, 40, 128)
    with torch.no_grad():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        cache = layer.new_cache(2, 64)
        parts = [layer(piece, cache=cache) for piece in x.split((20, *(1,) * 20), dim=1)]
        close(torch.cat(parts, dim=1), exact(x))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4  # the prompt, and up to 32 and 64 keys


# --- what is told to kernels of variable lengths: the wiring alone, on a CPU, for stand-ins for the packages


def of_varlen(q, k, v, bounds, bounds_k, longest, longest_k, *, dropout_p=0.0, softmax_scale, causal, window_size):
    assert bounds.dtype == bounds_k.dtype == torch.int32
    assert longest == bounds.diff().max() and longest_k == bounds_k.diff().max()
    left, right = (None if side in (-1, None) else side for side in window_size)
    band = (left, 0 if causal else right)
    return one_by_one(*(each[None] for each in (q, k, v)), bounds.tolist(), bounds_k.tolist(), band)[0]


def of_lengths(q, k, v, lengths, causal, window_size):
    assert lengths.dtype == torch.int32 and lengths.shape == q.shape[:1]
    left, right = (None if side in (-1, None) else side for side in window_size)
    outs = []
    for row, length in enumerate(lengths.tolist()):
        each = (q[row : row + 1], k[row : row + 1, :length], v[row : row + 1, :length])
        outs.append(one_by_one(*each, [0, q.shape[1]], [0, length], (left, 0 if causal else right)))
    return torch.cat(outs)


@pytest.fixture
def packages(monkeypatch):
    flash2, flash4 = ModuleType("flash_attn"), ModuleType("flash_attn.cute")
    flash2.flash_attn_func = flash4.flash_attn_func = None
    flash2.flash_attn_varlen_func = of_varlen

    def with_kvcache(q, k, v, *, cache_seqlens, softmax_scale, causal, window_size):
        return of_lengths(q, k, v, cache_seqlens, causal, window_size)

    def cute_varlen(q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None,
                    seqused_k=None, softmax_scale=None, causal=False, window_size=(None, None)):  # fmt: skip
        if seqused_k is not None:
            return of_lengths(q, k, v, seqused_k, causal, window_size), None
        options = {"softmax_scale": softmax_scale, "causal": causal, "window_size": window_size}
        return of_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **options), None

    flash2.flash_attn_with_kvcache, flash4.flash_attn_varlen_func = with_kvcache, cute_varlen
    flash2.cute = flash4

    def torchs_varlen(q, k, v, bounds, bounds_k, longest, longest_k, *, scale, window_size, enable_gqa):
        assert enable_gqa == (q.shape[1] > k.shape[1])
        return of_varlen(q, k, v, bounds, bounds_k, longest, longest_k, softmax_scale=scale, causal=False,
                         window_size=window_size)  # fmt: skip

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", torchs_varlen)
    monkeypatch.setitem(sys.modules, "flash_attn", flash2)
    monkeypatch.setitem(sys.modules, "flash_attn.cute", flash4)


@pytest.mark.parametrize("backend", [Flash2(), Flash4(), SdpaFlash()], ids=["flash2", "flash4", "sdpa_flash"])
@pytest.mark.parametrize("band", [(None, None), (None, 0), (2, 0)])
def test_kernels_are_told_of_both_boundaries(packages, backend, band):
    shape = Shape(batch_size=1, seq_len=9, seq_len_kv=15, num_heads=4, num_kv_heads=2, emb_dim=256, dtype="float16")
    request = Request(shape=shape, mask=Documents((3, 5, 9), band, (4, 10, 15)))
    assert backend.unsupported_reasons(request, H100) == []
    q, k, v = torch.randn(1, 9, 4, 64), *(torch.randn(1, 15, 2, 64) for _ in "kv")
    cpu = detect("cpu")
    attend = sdpa_flash._documents if isinstance(backend, SdpaFlash) else backend.prepare
    close(attend(request, cpu)(q, k, v), Naive().prepare(request, cpu)(q, k, v))


def test_torchs_own_variable_lengths_are_refused_where_it_has_none_such():
    shape = Shape(batch_size=1, seq_len=9, num_heads=4, emb_dim=36, dtype="float16")
    request = Request(shape=shape, mask=Documents((3, 9)), dropout=0.1)
    older = replace(H100, packages={"torch": "2.12.1+cu130"})
    told = SdpaFlash().unsupported_reasons(request, older)
    assert [reason.split(";")[0] for reason in told] == [
        "documents: need torch 2.13, for its varlen_attn", "documents: head_dim a multiple of 8",
        "documents: no dropout",
    ]  # fmt: skip


@pytest.mark.parametrize("backend", [Flash2(), Flash4()], ids=["flash2", "flash4"])
@pytest.mark.parametrize("band", [(None, None), (None, 0), (2, 0)])
@pytest.mark.parametrize("queries", [1, 3])
def test_kernels_are_told_of_each_sequences_length(packages, backend, band, queries):
    shape = Shape(
        batch_size=3, seq_len=queries, seq_len_kv=12, num_heads=4, num_kv_heads=2, emb_dim=32, dtype="float16"
    )
    request = Request(shape=shape, mask=Ragged(band), passes=("forward",))
    assert backend.unsupported_reasons(request, H100) == []
    q, k, v = torch.randn(3, queries, 4, 8), *(torch.randn(3, 12, 2, 8) for _ in "kv")
    lengths, cpu = torch.tensor([12, 3, 7], dtype=torch.int32), detect("cpu")
    close(backend.prepare(request, cpu)(q, k, v, lengths), Naive().prepare(request, cpu)(q, k, v, lengths))
