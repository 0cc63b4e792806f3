"""attn_lab.Attention as a person uses it: swap the backend, keep the weights, be refused in full sentences."""

from dataclasses import dataclass, field

import pytest
import torch

from attn_lab import Attention
from attn_lab.backends.flash2 import Flash2
from attn_lab.backends.flex import Flex
from attn_lab.backends.naive import Naive
from attn_lab.backends.sdpa_flash import SdpaFlash
from attn_lab.core.backend import Request
from attn_lab.core.errors import BadRequest, Refused
from attn_lab.masks.causal import Causal
from attn_lab.masks.sliding_window import SlidingWindow


def test_another_backend_gives_the_same_layer():
    layer = Attention(64, 8, 2, backend=Naive(), mask=Causal(), bias=True)
    x = torch.randn(2, 19, 64, requires_grad=True)
    first = layer(x)
    (gradient,) = torch.autograd.grad(first.square().sum(), x)
    weights = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.backend = SdpaFlash()
    second = layer(x)
    torch.testing.assert_close(second, first)
    torch.testing.assert_close(torch.autograd.grad(second.square().sum(), x)[0], gradient)
    assert all(torch.equal(value, weights[name]) for name, value in layer.state_dict().items())


def test_it_is_pytorchs_own_attention_given_its_weights():
    ours = Attention(48, 4, backend=SdpaFlash(), mask=Causal(), bias=True)
    theirs = torch.nn.MultiheadAttention(48, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x = torch.randn(3, 11, 48)
    masked_out = torch.ones(11, 11, dtype=torch.bool).triu(1)
    expected, _ = theirs(x, x, x, attn_mask=masked_out, need_weights=False)
    torch.testing.assert_close(ours(x), expected)


def test_every_length_and_mode_is_prepared_for_itself():
    layer = Attention(32, 2, backend=Naive(), mask=SlidingWindow(window=3))
    for seq_len in (5, 1, 9, 5):
        assert layer(torch.randn(2, seq_len, 32)).shape == (2, seq_len, 32)
    x = torch.randn(1, 7, 32)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer(x.requires_grad_()))
    late, early = torch.randn(1, 7, 32), torch.randn(1, 7, 32)
    late[:, 4:] = early[:, 4:]  # position 6 sees 4, 5 and 6 only
    torch.testing.assert_close(layer(late)[:, 6], layer(early)[:, 6])


def test_a_backend_that_cannot_serve_says_all_its_reasons_and_none_answers_for_it():
    layer = Attention(32, 2, backend=Flash2(), mask=Causal())
    with pytest.raises(Refused, match=r"Flash2 refuses: devices: cuda; asked cpu.*dtypes.*float32"):
        layer(torch.randn(1, 4, 32))
    layer.backend = Flex()
    with pytest.raises(Refused, match="forward only"):
        layer(torch.randn(1, 4, 32))


@pytest.mark.parametrize("x", [torch.zeros(4, 32), torch.zeros(1, 4, 31)])
def test_an_input_of_another_shape_is_told_what_was_expected(x):
    with pytest.raises(BadRequest, match=r"expected \(batch, seq, 32\); got \("):
        Attention(32, 2, backend=Naive(), mask=Causal())(x)


def test_sizes_that_make_no_attention_are_refused_at_once():
    with pytest.raises(BadRequest, match="num_kv_heads"):
        Attention(32, 4, 3, backend=Naive(), mask=Causal())
    with pytest.raises(BadRequest, match="num_kv_heads"):
        Attention(32, 4, 0, backend=Naive(), mask=Causal())
    with pytest.raises(BadRequest, match="emb_dim"):
        Attention(33, 4, backend=Naive(), mask=Causal())


@dataclass(frozen=True)
class Recording(Naive):
    """The naive backend, and what it was asked to prepare for."""

    asked: list[Request] = field(default_factory=list)

    def prepare(self, request, machine):
        self.asked.append(request)
        return super().prepare(request, machine)


def test_a_forward_without_gradients_does_not_stand_in_for_one_with():
    layer = Attention(32, 2, backend=Recording(), mask=Causal())
    x = torch.randn(1, 7, 32)
    with torch.no_grad():
        layer(x)
    for _ in range(2):
        layer(x).sum().backward()
    assert [request.needs_backward for request in layer.backend.asked] == [False, True]


def test_under_autocast_the_backend_is_asked_for_the_dtype_it_gets():
    layer = Attention(32, 2, backend=Recording(), mask=Causal())
    x = torch.randn(1, 7, 32)
    layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x)
    assert [request.shape.dtype for request in layer.backend.asked] == ["float32", "bfloat16"]


def test_the_mask_cannot_be_changed_behind_what_is_prepared():
    layer = Attention(32, 2, backend=Naive(), mask=Causal())
    with pytest.raises(AttributeError):
        layer.mask = SlidingWindow(window=3)
