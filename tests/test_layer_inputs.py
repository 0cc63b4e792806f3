"""What torch's own attention accepts, the layer accepts: nothing at all, numpy's numbers, float64, additive masks."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_integrations import timm  # noqa: F401  a fixture

from attn_lab import Attention, convert
from attn_lab.core.errors import AttnLabError, BadRequest, Unsupported
from attn_lab.masks.causal import Causal
from attn_lab.masks.full import Full
from attn_lab.masks.sliding_window import SlidingWindow
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.dispatcher import Dispatcher
from attn_lab.nn.tensor_mask import allowed_by

close = torch.testing.assert_close
CPU_BACKENDS = ("naive", "naive_fp32", "sdpa_math", "sdpa_flash")
ALL = {"rope": 10000.0, "qk_norm": True, "num_kv_heads": 2, "bias": True}


# --- nothing


@pytest.mark.parametrize("backend", [*CPU_BACKENDS, "flash2", "auto", "naive+sdpa_flash"])
@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "all"])
@pytest.mark.parametrize("size", [(0, 4, 32), (2, 0, 32), (0, 0, 32), (0, 1, 32)])
def test_an_empty_batch_or_sequence_gives_an_empty_output_and_gradients_of_zero(backend, options, size):
    layer = Attention(32, 4, backend=backend, **options)
    x = torch.zeros(size, requires_grad=True)
    for _ in range(2):
        out = layer(x)
        assert out.shape == size
        out.sum().backward()
    assert x.grad.shape == size
    assert all(each.grad is not None and not each.grad.any() for each in layer.parameters())
    with torch.no_grad():
        assert layer(x).shape == size


@pytest.mark.parametrize("queries", [0, 1, 3])
def test_attention_over_no_keys_is_zero(queries):
    q, k = torch.randn(2, queries, 4, 8), torch.randn(2, 0, 4, 8)
    out = Dispatcher(backends_named("sdpa_flash"), Full())(q, k, k)(q, k, k)
    assert out.shape == q.shape and not out.any()


def test_an_empty_batch_compiles_and_is_cached_as_any_other():
    layer = Attention(32, 4, backend="naive", rope=10000.0)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(0, 5, 32)).shape == (0, 5, 32)
    with torch.no_grad():
        cache = layer.new_cache(0, 8)
        assert layer(torch.zeros(0, 5, 32), cache=cache).shape == (0, 5, 32) and cache.length == 5
        cache.lengths = []
        assert layer(torch.zeros(0, 1, 32), cache=cache).shape == (0, 1, 32)
        cache = layer.new_cache(2, 8)
        assert layer(torch.zeros(2, 0, 32), cache=cache).shape == (2, 0, 32) and cache.length == 0


@pytest.mark.parametrize(
    ("bounds", "same"),
    [
        ([0, 3, 3, 10], [0, 3, 10]),
        ([0, 0, 10], [0, 10]),
        ([0, 4, 10, 10, 10], [0, 4, 10]),
        ([0, 0, 5, 5, 10], [0, 5, 10]),
    ],
)
@pytest.mark.parametrize("rope", [None, 10000.0])
@pytest.mark.parametrize("mask", ["causal", "full", SlidingWindow(window=2)], ids=repr)
def test_empty_documents_are_as_if_they_were_not_there(bounds, same, rope, mask):
    layer = Attention(32, 4, backend="naive", rope=rope, mask=mask)
    x = torch.randn(1, 10, 32)
    assert torch.equal(layer(x, cu_seqlens=bounds), layer(x, cu_seqlens=same))
    assert torch.equal(layer(x, cu_seqlens=torch.tensor(bounds)), layer(x, cu_seqlens=same))


@pytest.mark.parametrize("bounds", [[0], [0, 0]])
def test_no_documents_at_all_are_nothing(bounds):
    layer = Attention(32, 4, backend="naive", rope=10000.0)
    assert layer(torch.zeros(1, 0, 32), cu_seqlens=bounds).shape == (1, 0, 32)


def test_a_converted_model_takes_an_empty_batch():
    model = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    ours = convert(copy.deepcopy(model), backend="sdpa_flash")
    for size in ((0, 5, 32), (2, 0, 32)):
        x = torch.zeros(size)
        out, _ = ours(x, x, x, need_weights=False)
        assert out.shape == model(x, x, x, need_weights=False)[0].shape == size


# --- numpy


@pytest.mark.parametrize("whole", [np.int64, np.int32, np.uint8, torch.tensor])
def test_sizes_may_be_numpys_whole_numbers(whole):
    layer = Attention(whole(32), whole(4), whole(2), head_dim=whole(8), backend="naive")
    assert layer(torch.randn(1, 5, 32)).shape == (1, 5, 32)
    assert all(type(each) is int for each in (layer.emb_dim, layer.num_heads, layer.num_kv_heads, layer.head_dim))
    assert layer.new_cache(whole(2), whole(7)).k.shape == (2, 7, 2, 8)


@pytest.mark.parametrize("size", [4.0, np.float64(4), "4", True, None, torch.tensor(4.0), torch.tensor([4, 4])])
def test_what_is_no_whole_number_is_no_size(size):
    with pytest.raises(BadRequest, match="num_heads: expected a whole number"):
        Attention(32, size, backend="naive")


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
def test_boundaries_may_be_numpys(dtype):
    layer, x = Attention(32, 4, backend="naive"), torch.randn(1, 10, 32)
    expected = layer(x, cu_seqlens=[0, 4, 10])
    bounds = np.array([0, 4, 10], dtype=dtype)
    assert torch.equal(layer(x, cu_seqlens=bounds), expected)
    assert torch.equal(layer(x, cu_seqlens=list(bounds)), expected)
    bounds[1] = 7
    assert torch.equal(layer(x, cu_seqlens=bounds), layer(x, cu_seqlens=[0, 7, 10]))


# --- float64


@pytest.mark.parametrize(
    "backend", ["naive", "sdpa_math", "sdpa_flash", ["flash2", "flex", "naive_fp32", "sdpa_flash"]], ids=str
)
@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "all"])
def test_float64_is_served_in_float64(backend, options):
    layer = Attention(32, 4, backend=backend, **options).double()
    exact = copy.deepcopy(layer)
    exact.backend = "naive"
    x = torch.randn(2, 9, 32, dtype=torch.float64, requires_grad=True)
    out, expected = layer(x), exact(x)
    assert out.dtype == torch.float64
    close(out, expected, atol=1e-13, rtol=1e-12)
    cotangent = torch.randn_like(out)
    grads, exacts = (torch.autograd.grad(each, x, cotangent)[0] for each in (out, expected))
    close(grads, exacts, atol=1e-13, rtol=1e-12)


def test_float64_passes_torchs_own_check_of_gradients():
    layer = Attention(8, 2, backend="sdpa_flash", rope=10000.0).double()
    assert torch.autograd.gradcheck(layer, torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True))


def test_a_backend_without_float64_refuses_it_and_the_next_is_asked():
    layer = Attention(32, 4, backend="flex").double()
    x = torch.randn(1, 5, 32, dtype=torch.float64)
    with torch.no_grad(), pytest.raises(Unsupported, match=r"dtypes: float16, bfloat16, float32; asked float64"):
        layer(x)
    layer.backend = ["flash2", "naive"]
    layer(x)
    assert "Flash2 refuses" in str(layer.choices[-1]) and "float64" in str(layer.choices[-1])


def test_the_lab_measures_no_float64_which_is_what_it_is_held_against(door):
    told = door("shape.dtype=float64", "backend=naive")
    assert told.code == 2 and told.err.count("\n") == 1
    assert "shape.dtype: expected one of float16, bfloat16, float32; got 'float64'" in told.err


def test_a_bad_request_is_a_value_error():
    with pytest.raises(ValueError, match="num_heads"):
        Attention(32, 0, backend="naive")
    assert issubclass(BadRequest, ValueError) and issubclass(BadRequest, AttnLabError)


# --- additive masks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("least", [-1e4, -1e9, -float("inf"), "min"])
def test_additive_masks_forbid_by_whatever_is_low_enough(dtype, least):
    least = torch.finfo(dtype).min if least == "min" else least
    if dtype == torch.float16 and least == -1e9:
        least = -6e4
    allowed = torch.rand(2, 1, 6, 6) < 0.6
    allowed[..., 0] = True
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, least)
    assert torch.equal(allowed_by(mask), allowed)
    assert torch.equal(allowed_by(mask + mask), allowed)  # as those of padding and of causality are added up


@pytest.mark.parametrize("value", [-1e4, -2e4, -1e9])
def test_a_row_of_one_value_forbids_nothing_as_in_any_softmax(value):
    mask = torch.tensor([[0.0, 0.0, -1e30], [value, value, value], [value, value, value - 1e10]])
    expected = torch.tensor([[True, True, False], [True, True, True], [True, True, False]])
    assert torch.equal(allowed_by(mask), expected)
    scores = torch.randn(3, 3, dtype=torch.float64)
    close((scores + mask.double()).softmax(-1), scores.masked_fill(~expected, -torch.inf).softmax(-1))


@pytest.mark.parametrize(
    "mask", [[0.0, -1.0], [0.0, -500.0], [0.0, float("nan")], [0.0, float("inf")], [1.0, 0.0], [0.5, 0.5]]
)
def test_a_bias_is_refused(mask):
    with pytest.raises(BadRequest, match="no backend here adds a bias"):
        allowed_by(torch.tensor(mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, float("-inf")])
def test_a_learned_bias_is_refused_even_where_it_could_be_a_mask(dtype, value):
    bias = torch.tensor([[0.0, value]], dtype=dtype, requires_grad=True)
    with pytest.raises(BadRequest, match="a learned bias"):
        allowed_by(bias)
    with pytest.raises(BadRequest, match="a learned bias"):
        allowed_by(bias[None] * 1)
    assert allowed_by(bias.detach()).tolist() == [[True, value == 0.0]]


def test_a_row_of_minus_infinity_forbids_everything():
    inf = -float("inf")
    assert not allowed_by(torch.tensor([[inf, inf]])).any()
    assert not allowed_by(torch.full((1, 2), torch.finfo(torch.float32).min)).any()


@pytest.mark.parametrize("least", [-1e4, -1e9, -float("inf")])
def test_a_converted_model_takes_them(least):
    model = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    x = torch.randn(2, 6, 32)
    mask = torch.zeros(6, 6).masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), least)
    padding = torch.zeros(2, 6).masked_fill(torch.tensor([[False] * 6, [False] * 4 + [True] * 2]), least)
    expected, _ = model(x, x, x, attn_mask=mask, key_padding_mask=padding, need_weights=False)
    ours, _ = convert(model, backend="sdpa_flash")(
        x, x, x, attn_mask=mask, key_padding_mask=padding, need_weights=False
    )
    close(ours, expected)


# --- derivatives


@pytest.mark.parametrize("backend", ["naive", "naive_fp32", "sdpa_math"])
def test_second_derivatives_are_right_where_there_are_any(backend):
    layer = Attention(8, 2, backend=backend)
    x = torch.randn(1, 4, 8, requires_grad=True)
    if backend != "naive_fp32":  # which has no float64 to check it in
        assert torch.autograd.gradgradcheck(copy.deepcopy(layer).double(), x.detach().double().requires_grad_())
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    assert torch.autograd.grad(first.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("backend", ["naive+sdpa_flash", "sdpa_flash+naive", "naive+naive"])
@pytest.mark.parametrize("options", [{}, {"rope": 10000.0}])
def test_second_derivatives_are_refused_with_the_names_of_those_that_have_them(backend, options):
    layer = Attention(32, 4, backend=backend, **options)
    x = torch.randn(1, 4, 32, requires_grad=True)
    out = layer(x).square().sum()
    with pytest.raises(RuntimeError, match=r"first derivative only.*naive.*naive_fp32.*sdpa_math"):
        torch.autograd.grad(out, x, create_graph=True)


def test_a_fused_kernel_refuses_a_second_derivative():
    x = torch.randn(1, 4, 32, requires_grad=True)
    (first,) = torch.autograd.grad(Attention(32, 4, backend="sdpa_flash")(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.grad(first.sum(), x)


def test_a_forward_derivative_that_would_be_lost_is_refused():
    layer = Attention(128, 4, backend="flex").requires_grad_(False)
    x = torch.randn(1, 5, 128)
    with pytest.raises(Unsupported, match="flex refuses: forward-mode derivatives"):
        torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    layer.backend = "naive"
    _, tangent = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    assert tangent.any()


# --- a projection that something else wraps


class Wrapped(torch.nn.Module):
    """A projection with a low-rank part beside it, as adapters add one."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.low_rank = torch.nn.Linear(inner.in_features, inner.out_features)

    def forward(self, x):
        return self.inner(x) + self.low_rank(x)


def test_a_wrapped_projection_serves_decodes_and_says_what_it_expects():
    layer = Attention(32, 4, backend="naive")
    layer.qkv = Wrapped(layer.qkv)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        cache = layer.new_cache(2, 5)
        close(torch.cat([layer(piece, cache=cache) for piece in x.split((4, 1), dim=1)], dim=1), layer(x))
    with pytest.raises(BadRequest, match=r"expected torch.float32 on cpu, as the weights"):
        layer(x.double())
    with pytest.raises(BadRequest, match=r"expected torch.float32 on cpu, as the weights"):
        layer(x.to("meta"))


# --- copies


@pytest.mark.parametrize("backend", ["sdpa_flash", ["flash2", "naive"], "auto"], ids=str)
def test_a_converted_model_is_pickled_saved_and_copied_with_its_backend(backend, tmp_path):
    model = convert(torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), backend=backend).eval()
    x = torch.randn(2, 6, 32)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    expected = model(x, src_key_padding_mask=padding)
    torch.save(model, tmp_path / "model.pt")
    for again in (
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        torch.load(tmp_path / "model.pt", weights_only=False),
    ):
        assert torch.equal(again(x, src_key_padding_mask=padding), expected)
        assert again.self_attn._full.backends == model.self_attn._full.backends
    assert torch.equal(model(x, src_key_padding_mask=padding), expected)


def test_a_model_of_timms_is_pickled_saved_and_copied_with_its_backend(timm, tmp_path):  # noqa: F811
    from attn_lab.integrations.timm import attention

    for backend in ("naive", ["flash2", "sdpa_flash"]):
        kind = attention(backend)
        assert attention(backend) is kind and attention("sdpa_math") is not kind
        layer = kind(32, num_heads=4).eval()
        x = torch.randn(2, 6, 32)
        expected = layer(x)
        torch.save(layer, tmp_path / "layer.pt")
        for again in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer),
                      torch.load(tmp_path / "layer.pt", weights_only=False)):  # fmt: skip
            assert torch.equal(again(x), expected) and type(again) is kind


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_documents_of_any_lengths_are_each_for_itself(lengths):
    layer, total = Attention(16, 2, backend="naive", rope=10000.0), sum(lengths)
    x = torch.randn(1, total, 16)
    apart = torch.cat([layer(part) for part in x.split(lengths, dim=1)], dim=1)
    close(layer(x, cu_seqlens=np.cumsum([0, *lengths])), apart)


@pytest.mark.parametrize("mask", [Causal(), Full()], ids=repr)
def test_strange_masks_and_boundaries_stay_one_clear_line(mask):
    with pytest.raises(BadRequest, match="rising from 0"):
        Attention(32, 4, backend="naive", mask=mask)(torch.randn(1, 8, 32), cu_seqlens=np.array([0.0, 8.0]))
