"""Masks: every derived form (count, pairs, dense, band) says what the definition, written out in Python, says."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attn_lab.backends.naive import Naive
from attn_lab.core.machine import detect
from attn_lab.core.mask import Mask, dense, has_empty_rows, kind, pair_count, query_positions
from attn_lab.core.oracle import oracle
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.masks.document import Document
from attn_lab.masks.full import Full
from attn_lab.masks.prefix_lm import PrefixLM
from attn_lab.masks.sliding_window import SlidingWindow

Meaning = Callable[[int, int], bool]  # may this query attend to this key?


def document_meaning(lengths: list[int]) -> Meaning:
    label = [number for number in range(1000) for _ in range(lengths[number % len(lengths)])]
    return lambda query, key: 0 <= key <= query and label[query] == label[key]


def windows(window: int) -> tuple[Mask, Meaning]:
    return SlidingWindow(window=window), lambda query, key: key in range(query - window + 1, query + 1)


def prefixes(prefix: int) -> tuple[Mask, Meaning]:
    return PrefixLM(prefix=prefix), lambda query, key: key < prefix or key <= query


sizes = st.integers(1, 40)
meant = st.one_of(
    st.just((Full(), lambda query, key: True)),
    st.just((Causal(), lambda query, key: key <= query)),
    st.builds(windows, st.integers(1, 50)),
    st.builds(prefixes, st.integers(1, 50)),
    st.builds(lambda lengths: (Document(lengths=lengths), document_meaning(lengths)),
              st.lists(st.integers(1, 15), min_size=1, max_size=5)),
)  # fmt: skip


def shape_of(seq_len: int, seq_len_kv: int, batch_size: int = 1, num_heads: int = 1, head_dim: int = 4) -> Shape:
    return Shape(batch_size=batch_size, seq_len=seq_len, seq_len_kv=seq_len_kv, num_heads=num_heads,
                 emb_dim=num_heads * head_dim)  # fmt: skip


def table(meaning: Meaning, shape: Shape) -> Tensor:
    """(Sq, Sk): queries are the last seq_len of seq_len_kv positions."""
    first = shape.seq_len_kv - shape.seq_len
    return torch.tensor([[meaning(query, key) for key in range(shape.seq_len_kv)]
                         for query in range(first, shape.seq_len_kv)])  # fmt: skip


@given(meant, sizes, sizes, st.integers(1, 3), st.integers(1, 3))
def test_every_form_of_a_mask_says_what_it_means(mask_meaning, seq_len, seq_len_kv, batch_size, num_heads):
    mask, meaning = mask_meaning
    shape = shape_of(seq_len, seq_len_kv, batch_size, num_heads)
    expected = table(meaning, shape)
    query = query_positions(shape)
    assert torch.equal(dense(mask, shape, "cpu"), expected[None, None])
    count = mask.count(query, seq_len_kv)
    assert count.dtype == torch.int64 and count.tolist() == expected.sum(-1).tolist()
    assert Mask.count(mask, query, seq_len_kv).tolist() == count.tolist()
    assert pair_count(mask, shape) == int(expected.sum()) * batch_size * num_heads
    assert has_empty_rows(mask, shape) == bool((~expected.any(-1)).any())


@given(meant, sizes, sizes)
def test_a_band_is_what_the_predicate_is(mask_meaning, seq_len, seq_len_kv):
    mask, meaning = mask_meaning
    if mask.band is None:
        assert kind(mask) == "predicate"
        return
    left, right = mask.band
    shape = shape_of(seq_len, seq_len_kv)
    within = lambda query, key: (left is None or key >= query - left) and (right is None or key <= query + right)  # noqa: E731
    assert torch.equal(table(within, shape), table(meaning, shape))


@given(meant, sizes, sizes, st.integers(1, 40))
def test_blocks_of_queries_are_the_whole(mask_meaning, seq_len, seq_len_kv, block):
    mask, _ = mask_meaning
    shape = shape_of(seq_len, seq_len_kv)
    blocks = [dense(mask, shape, "cpu", query=query) for query in query_positions(shape).split(block)]
    assert torch.equal(torch.cat(blocks, dim=2), dense(mask, shape, "cpu"))


@given(sizes, sizes)
def test_causal_pairs_have_their_closed_forms(seq_len, seq_len_kv):
    assert pair_count(Causal(), shape_of(seq_len, seq_len)) == seq_len * (seq_len + 1) // 2
    if seq_len <= seq_len_kv:
        expected = seq_len * (2 * seq_len_kv - seq_len + 1) // 2
    else:
        expected = seq_len_kv * (seq_len_kv + 1) // 2
    assert pair_count(Causal(), shape_of(seq_len, seq_len_kv)) == expected


@given(sizes, st.integers(1, 60))
def test_window_pairs_have_their_closed_form(seq_len, window):
    window = min(window, seq_len)
    expected = window * (window + 1) // 2 + (seq_len - window) * window
    assert pair_count(SlidingWindow(window=window), shape_of(seq_len, seq_len)) == expected


@given(st.lists(st.integers(1, 15), min_size=1, max_size=6))
def test_documents_pairs_are_summed_by_segment(lengths):
    total = sum(lengths)
    assert pair_count(Document(lengths=lengths), shape_of(total, total)) == sum(n * (n + 1) // 2 for n in lengths)


@pytest.mark.parametrize("mask", [Full(), Causal(), SlidingWindow(window=4096), PrefixLM(), Document()], ids=repr)
def test_a_million_positions_are_counted_without_a_matrix(mask):
    shape = shape_of(2**20, 2**20)
    assert 0 < pair_count(mask, shape) <= 2**40
    assert not has_empty_rows(mask, shape)


@dataclass(frozen=True)
class Ragged(Mask):
    """A stranger's: no band, no count of its own, and each batch element and head its own."""

    uniform = False

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query + batch - head) | (key == 0)


def test_a_ragged_mask_is_counted_by_batch_and_head():
    shape = shape_of(6, 9, batch_size=3, num_heads=4)
    whole = dense(Ragged(), shape, "cpu")
    assert whole.shape == (3, 4, 6, 9)
    for batch in range(3):
        for head in range(4):
            expected = table(lambda query, key: key <= query + batch - head or key == 0, shape)  # noqa: B023
            assert torch.equal(whole[batch, head], expected)
    assert pair_count(Ragged(), shape) == int(whole.sum())
    assert kind(Ragged()) == "predicate" and not has_empty_rows(Ragged(), shape)
    part = dense(Ragged(), shape, "cpu", batch=torch.tensor([2]), head=torch.tensor([1, 3]))
    assert torch.equal(part, whole[2:3, [1, 3]])


def test_a_ragged_mask_too_big_for_one_block_is_counted_the_same():
    shape = shape_of(1500, 1500, batch_size=2, num_heads=2)
    expected = sum(
        min(max(query + batch - head + 1, 1), 1500) for batch in range(2) for head in range(2) for query in range(1500)
    )
    assert pair_count(Ragged(), shape) == expected


@dataclass(frozen=True)
class Nothing(Mask):
    uniform = False

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (batch + head > 0)


def test_empty_rows_of_one_head_only_are_seen():
    assert has_empty_rows(Nothing(), shape_of(4, 4, batch_size=2, num_heads=2))
    assert pair_count(Nothing(), shape_of(4, 4, batch_size=2, num_heads=2)) == 3 * 10


def test_the_oracle_and_naive_agree_on_a_ragged_mask():
    shape = Shape(batch_size=3, seq_len=10, seq_len_kv=14, num_heads=4, num_kv_heads=2, emb_dim=32)
    leaves = [torch.randn(3, seq, heads, 8, dtype=torch.float64, requires_grad=True)
              for seq, heads in ((10, 4), (14, 2), (14, 2))]  # fmt: skip
    exact = oracle(Ragged(), shape, torch.arange(3), torch.arange(4))(*leaves)
    plain = Naive().prepare(Request(shape=shape, mask=Ragged()), detect("cpu"))(*leaves)
    assert torch.allclose(exact, plain, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(exact)
    for ours, theirs in zip(
        torch.autograd.grad(exact, leaves, cotangent), torch.autograd.grad(plain, leaves, cotangent), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
