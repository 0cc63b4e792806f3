"""attn_lab.Attention as a person uses it: swap the backend, keep the weights, be refused in full sentences."""

import copy
import pickle
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.checkpoint import checkpoint

from attn_lab import Attention, masks
from attn_lab.backends.flash2 import Flash2
from attn_lab.backends.flex import Flex
from attn_lab.backends.naive import Naive
from attn_lab.backends.sdpa_flash import SdpaFlash
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.errors import BadRequest, Unsupported
from attn_lab.core.request import Request
from attn_lab.masks.causal import Causal
from attn_lab.masks.sliding_window import SlidingWindow
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.dispatcher import Dispatcher
from attn_lab.nn.registry import backend_names, mask_named


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
    with pytest.raises(Unsupported, match=r"Flash2 refuses: devices: cuda; asked cpu.*dtypes.*float32"):
        layer(torch.randn(1, 4, 32))
    layer.backend = Flex()
    with pytest.raises(Unsupported, match="forward only"):
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
    layer = Attention(32, 2, backend=Recording(), mask=Causal(), verify=False)
    x = torch.randn(1, 7, 32)
    with torch.no_grad():
        layer(x)
    for _ in range(2):
        layer(x).sum().backward()
    assert [request.needs_backward for request in layer.backend.asked] == [False, True]


def test_under_autocast_the_backend_is_asked_for_the_dtype_it_gets():
    layer = Attention(32, 2, backend=Recording(), mask=Causal(), verify=False)
    x = torch.randn(1, 7, 32)
    layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x)
    assert [request.shape.dtype for request in layer.backend.asked] == ["float32", "bfloat16"]


def test_the_mask_cannot_be_changed_behind_what_is_prepared():
    layer = Attention(32, 2, backend=Naive(), mask=Causal())
    with pytest.raises(AttributeError):
        layer.mask = SlidingWindow(window=3)


CONF = Path(__file__).parents[1] / "conf"


@pytest.mark.parametrize("group", ["backend", "mask"])
def test_a_name_is_the_same_here_and_on_the_command_line(group):
    files = {file.stem: yaml.safe_load(file.read_text("utf-8"))["_target_"] for file in (CONF / group).glob("*.yaml")}
    files.pop("paired", None)  # made of two others: tests/test_paired.py
    known = {"backend": backend_names(), "mask": [each.name for each in pkgutil.iter_modules(masks.__path__)]}
    named = {"backend": lambda name: backends_named(name)[0], "mask": mask_named}[group]
    assert known[group] == sorted(files)
    for name, target in files.items():
        assert f"{type(named(name)).__module__}.{type(named(name)).__name__}" == target


def test_backend_and_mask_by_name_are_what_they_are_as_objects():
    x = torch.randn(1, 7, 32)
    named = Attention(32, 2, backend="sdpa_math", mask="full")
    given = Attention(32, 2, backend=named.backend, mask=named.mask)
    given.load_state_dict(named.state_dict())
    assert torch.equal(named(x), given(x))
    named.backend = "naive"
    assert named.backend == Naive()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"backend": "flash5"}, "backend: expected flash2, .*sdpa_math.*auto, or.*got 'flash5'"),
        ({"backend": ["naive", "_one_sdpa"]}, "got '_one_sdpa'"),
        ({"backend": []}, "at least one of auto, flash2.*empty list"),
        ({"table": "table.json"}, r"table: expected backend='auto', which alone follows one; got backend='naive'"),
        ({"mask": "casual"}, "mask: expected causal, .*got 'casual'"),
        ({"mask": Causal}, "an object of that kind; got <class"),
        ({"dropout": 1.0}, "dropout: expected at least 0 and less than 1; got 1.0"),
        ({"dropout": "0.1"}, "dropout: expected at least 0 and less than 1; got '0.1'"),
    ],
)
def test_a_word_it_does_not_know_is_answered_with_those_it_does(asked, told):
    with pytest.raises(BadRequest, match=told):
        Attention(32, 2, **({"backend": "naive"} | asked))


def test_of_several_backends_the_first_that_can_takes_it_and_says_so():
    class ForwardOnly(Naive):
        capabilities = {"cpu": Capabilities(backward=False)}

    layer = Attention(32, 2, backend=["flash2", ForwardOnly(), "sdpa_flash", "naive"])
    assert layer.backend is None
    x = torch.randn(1, 5, 32)
    layer(x)
    assert layer.backend == SdpaFlash()
    told = str(layer.choices[-1])
    assert "SdpaFlash; Flash2 refuses: devices: cuda" in told and "ForwardOnly refuses: passes: forward only" in told
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer(x))
    assert isinstance(layer.backend, ForwardOnly)  # without gradients it can
    with pytest.raises(Unsupported, match=r"every backend preferred refuses: Flash2: devices.*; Flash4: devices"):
        Attention(32, 2, backend=["flash2", "flash4"])(x)


def test_a_backend_that_finds_out_late_is_passed_over_too():
    class Late(Naive):
        def prepare(self, request, machine):
            raise Unsupported("late", ["its extension does not load here"])

    layer = Attention(32, 2, backend=[Late(), "naive"])
    layer(torch.randn(1, 5, 32))
    assert layer.backend == Naive() and "its extension does not load" in str(layer.choices[-1])


@dataclass(frozen=True)
class Looking(Naive):
    """The naive backend, and the tensors it was given."""

    seen: list = field(default_factory=list)

    def prepare(self, request, machine):
        attend = super().prepare(request, machine)

        def look(q, k, v):
            self.seen.append((q, k, v))
            return attend(q, k, v)

        return look


def test_the_projection_reaches_the_backend_uncopied():
    layer = Attention(32, 4, 2, backend=Looking(), bias=True, verify=False)
    packed = []
    layer.qkv.register_forward_hook(lambda module, given, out: packed.append(out))
    layer(torch.randn(3, 5, 32))
    ((q, k, v),) = layer.backend.seen
    start, width = packed[0].data_ptr(), packed[0].element_size()
    assert [each.data_ptr() - start for each in (q, k, v)] == [0, 4 * 8 * width, 6 * 8 * width]
    assert all(each.stride() == (5 * 64, 64, 8, 1) for each in (q, k, v))
    normed = Attention(32, 4, 2, backend=Looking(), qk_norm=True, rope=10000.0, verify=False)
    normed.qkv.register_forward_hook(lambda module, given, out: packed.append(out))
    normed(torch.randn(3, 5, 32))
    assert normed.backend.seen[0][2].data_ptr() == packed[1].data_ptr() + 6 * 8 * width  # v always


def test_qk_norm_is_rms_norm_over_every_head():
    layer = Attention(32, 4, 2, backend=Looking(), qk_norm=True, verify=False)
    with torch.no_grad():
        layer.q_norm.weight.uniform_(0.5, 2)
        layer.k_norm.weight.uniform_(0.5, 2)
    x = torch.randn(2, 5, 32)
    layer(x)
    heads = layer.qkv(x).view(2, 5, 8, 8)
    for seen, raw, norm in zip(layer.backend.seen[0], heads.split((4, 2, 2), 2), (layer.q_norm, layer.k_norm, None),
                               strict=True):  # fmt: skip
        size = (raw.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
        expected = raw if norm is None else (raw / size * norm.weight).float()
        torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize("backend", ["naive", "naive_fp32", "sdpa_math"])
def test_dropout_drops_in_training_alone_and_keeps_the_mean(backend):
    torch.manual_seed(0)
    plain = Attention(32, 2, backend=backend)
    layer = Attention(32, 2, backend=backend, dropout=0.3)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(1, 6, 32)
    assert torch.equal(layer.eval()(x), plain(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    with torch.no_grad():
        mean = layer(x.expand(4000, 6, 32)).mean(0, keepdim=True)
    torch.testing.assert_close(mean, plain(x), atol=0.02, rtol=0)


def test_dropout_is_refused_by_a_backend_without_and_only_in_training():
    layer = Attention(32, 2, backend="sdpa_flash", dropout=0.1)
    with pytest.raises(Unsupported, match=r"dropout: none; asked 0.1"):
        layer(torch.randn(1, 4, 32))
    assert layer.eval()(torch.randn(1, 4, 32)).shape == (1, 4, 32)


ALL = {"num_kv_heads": 2, "rope": 10000.0, "qk_norm": True, "mask": SlidingWindow(window=3), "bias": True}


@pytest.mark.parametrize("backend", ["naive", "naive_fp32", "sdpa_math", "sdpa_flash"])
def test_it_compiles_in_one_piece_once_for_all_lengths_and_answers_the_same(backend):
    layer = Attention(32, 4, backend=backend, **ALL)
    torch._dynamo.reset()
    graphs = []
    compiled = torch.compile(layer, fullgraph=True, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    for seq in (5, 6, 7, 5, 6, 7):
        x = torch.randn(2, seq, 32, requires_grad=True)
        out, plain = compiled(x), layer(x)
        torch.testing.assert_close(out, plain)
        torch.testing.assert_close(torch.autograd.grad(out.sum(), x), torch.autograd.grad(plain.sum(), x))
    assert len(graphs) == 2  # the first length, and then any


def test_sizes_that_torch_leaves_open_stay_open():
    layer = Attention(32, 4, backend="sdpa_flash", **ALL)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="eager")
    for seq in (5, 6):
        x = torch.randn(2, seq, 32)
        torch.testing.assert_close(compiled(x), layer(x))


def test_inductor_compiles_it_too():
    layer = Attention(32, 4, backend="sdpa_flash", **ALL)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("backend", ["naive", "sdpa_flash"])
def test_it_is_exported_and_still_serves_afterwards(backend, strict):
    layer = Attention(32, 4, backend=backend, **ALL).eval()
    x = torch.randn(2, 5, 32)
    exported = torch.export.export(layer, (x,), strict=strict).module()
    torch.testing.assert_close(exported(x), layer(x))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_gives_the_same_gradients(use_reentrant):
    layer = Attention(32, 4, backend="naive", dropout=0.2, **ALL)
    x = torch.randn(2, 7, 32, requires_grad=True)
    parameters = [x, *layer.parameters()]
    torch.manual_seed(3)
    plain = layer(x)
    expected = torch.autograd.grad(plain.square().sum(), parameters)
    torch.manual_seed(3)
    kept = checkpoint(layer, x, use_reentrant=use_reentrant)
    kept.square().sum().backward()
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_what_a_checkpoint_computes_again_drops_the_same_whoever_is_preferred_without_gradients():
    class ForwardOnly(Naive):
        capabilities = {"cpu": Capabilities(backward=False, dropout=True)}

        def prepare(self, request, machine):
            attend = super().prepare(request, machine)
            return lambda q, k, v: attend(q, k, v * (1 + 0 * torch.rand(())))  # another place in the random numbers

    layer = Attention(32, 4, backend=[ForwardOnly(), "naive"], dropout=0.5)
    x = torch.randn(2, 7, 32, requires_grad=True)
    torch.manual_seed(3)
    (expected,) = torch.autograd.grad((plain := layer(x)).square().sum(), x)
    torch.manual_seed(3)
    kept = checkpoint(layer, x, use_reentrant=True)
    kept.square().sum().backward()
    torch.testing.assert_close(kept, plain)
    torch.testing.assert_close(x.grad, expected)


def test_under_autocast_norms_and_positions_keep_to_the_backends_dtype():
    layer = Attention(32, 4, backend=Looking(), verify=False, **ALL)
    x = torch.randn(1, 7, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert [each.dtype for each in layer.backend.seen[0]] == [torch.bfloat16] * 3 and out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x), atol=0.05, rtol=0.05)


def test_a_used_layer_is_copied_and_pickled_without_what_it_prepared():
    layer = Attention(32, 4, backend=["flash2", "sdpa_flash"], **ALL)
    x = torch.randn(1, 7, 32)
    expected = layer(x)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert again.backend is None
        assert torch.equal(again(x), expected)
    assert torch.equal(layer(x), expected)


def test_what_inference_prepared_serves_training_too():
    layer = Attention(32, 4, backend="sdpa_flash", **ALL)
    x = torch.randn(1, 7, 32)
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert layer.qkv.weight.grad is not None


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (
            torch.zeros(1, 4, 32, dtype=torch.float64),
            "expected torch.float32 on cpu, as the weights; got torch.float64",
        ),
        (torch.zeros(1, 4, 32, device="meta"), "expected torch.float32 on cpu, as the weights; got .* on meta"),
    ],
)
def test_an_input_it_cannot_take_is_one_clear_line(x, told):
    with pytest.raises(BadRequest, match=told):
        Attention(32, 2, backend="naive")(x)


@pytest.mark.parametrize(
    ("to", "told"), [({"dtype": torch.float64}, "float64 on cpu"), ({"device": "meta"}, "on meta")]
)
@pytest.mark.parametrize("which", [1, 2])
def test_tensors_of_several_dtypes_or_devices_are_refused(which, to, told):
    parts = [torch.randn(1, 4, 2, 16) for _ in "qkv"]
    parts[which] = parts[which].to(**to)
    with pytest.raises(BadRequest, match=f"expected one dtype and one device; got .*{told}"):
        Dispatcher((Naive(),), Causal())(*parts)


@pytest.mark.parametrize("backend", ["naive", "sdpa_flash", "naive+sdpa_flash"])
@pytest.mark.parametrize("options", [{}, {"rope": 10000.0, "qk_norm": True, "num_kv_heads": 1}])
def test_one_token_attends_to_itself_alone(backend, options):
    layer = Attention(32, 2, backend=backend, **options)
    x = torch.randn(3, 1, 32, requires_grad=True)
    values = layer.qkv(x)[..., -layer.num_kv_heads * 16 :].view(3, 1, -1, 16)
    expected = layer.out(values.repeat_interleave(2 // layer.num_kv_heads, dim=2).reshape(3, 1, 32))
    out = layer(x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), x), torch.autograd.grad(expected.sum(), x))


@pytest.mark.parametrize("backend", ["naive", "naive_fp32", "sdpa_math", "sdpa_flash", "naive+sdpa_flash"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nan_reaches_every_query_that_sees_it_and_no_other_batch_element(backend, bad):
    layer = Attention(32, 2, backend=backend)
    x = torch.randn(2, 600, 32)
    x[0, 300] = bad
    out = layer(x)
    assert out[0, 300:].isnan().all() and out[1].isfinite().all()
