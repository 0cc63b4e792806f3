"""The oracle against plain softmax attention under torch's own autograd, in fp64: it is what all else is held to."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attn_lab.core.oracle as module
from attn_lab.core.mask import Mask, dense
from attn_lab.core.oracle import oracle
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.masks.document import Document
from attn_lab.masks.full import Full
from attn_lab.masks.prefix_lm import PrefixLM
from attn_lab.masks.sliding_window import SlidingWindow

masks = st.one_of(
    st.just(Full()),
    st.just(Causal()),
    st.builds(SlidingWindow, window=st.integers(1, 12)),
    st.builds(PrefixLM, prefix=st.integers(1, 12)),
    st.builds(Document, lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3)),
)
shapes = st.builds(
    lambda batch, seq, seq_kv, kv_heads, group, dim: Shape(
        batch_size=batch, seq_len=seq, seq_len_kv=seq_kv, num_heads=kv_heads * group, num_kv_heads=kv_heads,
        emb_dim=kv_heads * group * dim, dtype="float32",
    ),
    st.integers(1, 3), st.integers(1, 16), st.integers(1, 16), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5),
)  # fmt: skip


def leaves_of(shape: Shape, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape.batch_size, seq, heads, shape.head_dim, generator=generator, dtype=dtype, requires_grad=True)
        for seq, heads in (
            (shape.seq_len, shape.num_heads),
            (shape.seq_len_kv, shape.num_kv_heads),
            (shape.seq_len_kv, shape.num_kv_heads),
        )
    ]


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Mask, shape: Shape) -> Tensor:
    """What a textbook says, head by head; a finite stand-in for -inf keeps rows that see nothing differentiable."""
    allowed = dense(mask, shape, "cpu").expand(shape.batch_size, shape.num_heads, -1, -1)
    heads = []
    for head in range(shape.num_heads):
        own = head // (shape.num_heads // shape.num_kv_heads)
        scores = q[:, :, head] @ k[:, :, own].transpose(1, 2) / shape.head_dim**0.5
        weights = scores.masked_fill(~allowed[:, head], -1e30).softmax(-1).masked_fill(~allowed[:, head], 0)
        heads.append(weights @ v[:, :, own])
    return torch.stack(heads, dim=2)


def whole(mask: Mask, shape: Shape):
    return oracle(mask, shape, torch.arange(shape.batch_size), torch.arange(shape.num_heads))


def answers(attend, leaves: list[Tensor]) -> list[Tensor]:
    out = attend(*leaves)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent)]


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-12) -> None:
    for name, one, other in zip(("out", "dq", "dk", "dv"), ours, theirs, strict=True):
        torch.testing.assert_close(
            one, other, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@given(masks, shapes)
def test_output_and_gradients_are_autograd_s_of_plain_attention(mask, shape):
    leaves = leaves_of(shape)
    assert_close(answers(whole(mask, shape), leaves), answers(lambda q, k, v: plain(q, k, v, mask, shape), leaves))


@given(masks, shapes, st.integers(1, 200))
def test_the_size_of_a_block_changes_nothing(mask, shape, elements):
    leaves = leaves_of(shape)
    in_one = answers(whole(mask, shape), leaves)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ELEMENTS", elements)
        assert_close(answers(whole(mask, shape), leaves), in_one)


@given(masks, shapes, st.data())
def test_one_slice_alone_is_that_slice_of_the_whole(mask, shape, data):
    """Heads and batch elements are independent: a check of a few is exact for them."""
    batch = data.draw(st.integers(0, shape.batch_size - 1))
    own = data.draw(st.integers(0, shape.num_kv_heads - 1))
    group = slice(own * shape.group_size, (own + 1) * shape.group_size)
    leaves = leaves_of(shape)
    cuts = [group, slice(own, own + 1), slice(own, own + 1)]
    pieces = [leaf.detach()[batch : batch + 1, :, cut].requires_grad_() for leaf, cut in zip(leaves, cuts, strict=True)]
    out = whole(mask, shape)(*leaves)
    part = oracle(mask, shape, torch.tensor([batch]), torch.arange(group.start, group.stop))(*pieces)
    torch.testing.assert_close(part, out[batch : batch + 1, :, group], rtol=1e-12, atol=1e-12)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    grads = torch.autograd.grad(out, leaves, cotangent)
    for grad, cut, ours in zip(
        grads, cuts, torch.autograd.grad(part, pieces, cotangent[batch : batch + 1, :, group]), strict=True
    ):
        torch.testing.assert_close(ours, grad[batch : batch + 1, :, cut], rtol=1e-12, atol=1e-12)


def test_queries_that_see_nothing_give_zero_and_no_gradient():
    shape = Shape(batch_size=2, seq_len=7, seq_len_kv=3, num_heads=2, emb_dim=8)
    out, dq, dk, dv = answers(whole(Causal(), shape), leaves_of(shape))
    assert (out[:, :4] == 0).all() and (dq[:, :4] == 0).all()
    assert (out[:, 4:] != 0).all()
    assert all(torch.isfinite(tensor).all() for tensor in (out, dq, dk, dv))


@pytest.mark.parametrize("mask", [Full(), Causal(), SlidingWindow(window=2)], ids=repr)
def test_gradcheck(mask):
    shape = Shape(batch_size=1, seq_len=3, seq_len_kv=4, num_heads=2, num_kv_heads=1, emb_dim=4)
    assert torch.autograd.gradcheck(whole(mask, shape), leaves_of(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_computes_in_the_dtype_it_is_given(dtype):
    shape = Shape(batch_size=2, seq_len=33, num_heads=4, num_kv_heads=2, emb_dim=64)
    exact = answers(
        whole(Causal(), shape), [leaf.detach().to(dtype).double().requires_grad_() for leaf in leaves_of(shape)]
    )
    ours = answers(whole(Causal(), shape), [leaf.detach().to(dtype).requires_grad_() for leaf in leaves_of(shape)])
    assert all(tensor.dtype == dtype for tensor in ours)
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=0, atol=10 * torch.finfo(dtype).eps)


def test_large_scores_do_not_overflow():
    shape = Shape(batch_size=1, seq_len=8, num_heads=1, emb_dim=4)
    leaves = [(leaf.detach() * 1e4).requires_grad_() for leaf in leaves_of(shape)]
    assert all(torch.isfinite(tensor).all() for tensor in answers(whole(Causal(), shape), leaves))
