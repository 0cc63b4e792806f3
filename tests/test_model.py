"""A whole model, trained: every decoder, proven right and stepped as in earnest; a fault in one layer is found."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from attn_lab.backends.naive import Naive
from attn_lab.backends.sdpa_flash import SdpaFlash
from attn_lab.core.flops import attention_flops
from attn_lab.core.machine import detect
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.masks.full import Full
from attn_lab.masks.sliding_window import SlidingWindow
from attn_lab.measure.attention_timer import AttentionTimer
from attn_lab.measure.subjects.layer import Layer
from attn_lab.measure.subjects.model import Model
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.registry import backend_names
from attn_lab.selfcheck import faults
from attn_lab.selfcheck.harness import Harness

TINY = ("subject=model", "subject.layers=2", "subject.vocab_size=61", "subject.mlp=96", "passes=[train_step]",
        "shape.batch_size=2", "shape.seq_len=24", "shape.emb_dim=64", "aa_repeat=false")  # fmt: skip
SHAPE = Shape(batch_size=2, seq_len=24, num_heads=4, emb_dim=64, dtype="float32")
SMALL = Model(layers=3, vocab_size=61, mlp=96)


def staged(subject=SMALL, shape=SHAPE, passes=("train_step",)):
    backend, machine, request = SdpaFlash(), detect("cpu"), Request(shape=shape, mask=Causal(), passes=passes)
    assert backend.unsupported_reasons(request, machine) == []
    return subject.stage(request, backend, backend.prepare(request, machine), machine, seed=3, checked_slices=1)


@pytest.mark.parametrize("words", [
    (), ("subject.family=gpt2",), ("shape.num_kv_heads=2", "shape.head_dim=8", "subject.checkpoint=true"),
    ("shape.dtype=bfloat16",), ("shape.dtype=bfloat16", "subject.precision=autocast"), ("shape.dtype=float16",),
    ("mask=sliding_window", "mask.window=7", "subject.family=gpt2", "subject.checkpoint=true"),
], ids=lambda words: " ".join(words) or "llama")  # fmt: skip
def test_a_model_is_trained_and_every_figure_of_it_is_there(words, door):
    told = door(*TINY, *words, "backend=naive,sdpa_flash")
    assert told.statuses == ["ok", "ok"], [record["reasons"] for record in told.records]
    for record in told.records:
        metrics = {name: metric["value"] for name, metric in record["metrics"].items()}
        assert metrics["train_step/tokens_per_second"] == pytest.approx(48e3 / metrics["train_step/time"])
        assert 0 < metrics["train_step/attention_share"] < 100
        assert metrics["memory/peak"] > metrics["memory/inputs"] + metrics["memory/optimizer"]
        assert record["provenance"]["versions"]["transformers"]
        if "float32" in str(record["case"]["shape"]):
            share = metrics["train_step/tflops"] / metrics["peak_rates/gemm"]
            assert metrics["train_step/mfu"] == pytest.approx(100 * share)
        assert not [name for name in metrics if name.startswith(("forward/", "backward/", "forward_backward/"))]


class InOneLayer(faults.FaultyBackend):
    """Sound, but in the second of three layers."""

    def prepare(self, request, machine):
        sound, calls = self.sound.prepare(request, machine), [0]
        spoilt = self.spoilt(request, machine)

        def attend(q, k, v):
            calls[0] += 1
            return spoilt(q, k, v) if calls[0] % 3 == 2 else sound(q, k, v)

        return attend


class WrongMask(InOneLayer):
    def spoilt(self, request, machine):
        return self.sound.prepare(replace(request, mask=Full()), machine)


class WrongScale(InOneLayer):
    def spoilt(self, request, machine):
        attend = self.sound.prepare(request, machine)
        return lambda q, k, v: attend(q * 1.05, k, v)


class ShortWindow(InOneLayer):
    """Sees all but the first key."""

    sound, capabilities, kernels = Naive(), Naive.capabilities, Naive.kernels

    def spoilt(self, request, machine):
        return self.sound.prepare(replace(request, mask=SlidingWindow(request.shape.seq_len - 1)), machine)


class NoGradientToKeys(InOneLayer):
    def spoilt(self, request, machine):
        attend = self.sound.prepare(request, machine)
        return lambda q, k, v: attend(q, k.detach() + 0 * k, v)


@pytest.fixture(scope="module")
def path() -> Harness:
    return Harness(detect("cpu"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", [WrongMask, WrongScale, ShortWindow, NoGradientToKeys])
def test_a_fault_in_one_layer_of_three_never_meets_the_clock(fault, dtype, path):
    words = [*TINY, "subject.layers=3", f"shape.dtype={dtype}"]
    case = path.case("faulty", f"{__name__}.{fault.__name__}", *[word for word in words if "aa_repeat" not in word])
    record = path.record(replace(case, backend=fault()))
    assert record.status == "incorrect", (fault, record.reasons)
    assert any("max error" in reason for reason in record.reasons)
    assert "train_step/time" not in record.metrics


def test_a_backend_that_another_answers_for_is_found_in_a_model_too(path):
    case = path.case("faulty", "attn_lab.selfcheck.faults.Impostor", *TINY[:-1])
    record = path.record(case)
    assert record.status == "incorrect" and "launched another's kernels" in record.reasons[0]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_losses_and_gradients_are_those_of_transformers_own_training(family):
    """Its own attention, its own loss, its own backward, of the same weights and tokens."""
    subject = replace(SMALL, family=family)
    prepared = staged(subject)
    theirs = subject.made(SHAPE, "cpu", 3)
    theirs.set_attn_implementation("eager")
    inputs, targets = subject.tokens(SHAPE, "cpu", 3)
    loss = theirs(inputs, labels=inputs, shift_labels=targets.contiguous()).loss
    loss.backward()
    torch.testing.assert_close(prepared.forward().mean(), loss)
    prepared.train_step()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(prepared.leaves[name].grad, parameter.grad, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("subject", [SMALL, Layer()])
def test_a_training_step_updates_every_parameter_and_its_gradients_are_cleared_off_the_clock(subject):
    prepared = staged(subject)
    before = {name: leaf.detach().clone() for name, leaf in prepared.leaves.items() if isinstance(leaf, nn.Parameter)}
    prepared.train_step()
    once = {name: leaf.grad.clone() for name, leaf in prepared.leaves.items()}
    assert set(before) <= set(once) and all(not torch.equal(prepared.leaves[name], before[name]) for name in before)
    prepared.clear_gradients()
    assert all(leaf.grad is None for leaf in prepared.leaves.values())
    prepared.train_step()  # were they kept, they would add up
    for name in once:
        torch.testing.assert_close(prepared.leaves[name].grad, once[name], atol=1e-2 * once[name].abs().max(), rtol=0.1)


def test_training_lowers_the_loss():
    prepared = staged()
    prepared.optimizer.param_groups[0].update(lr=1e-2, eps=1e-8)
    first = prepared.forward().mean()
    for _ in range(20):
        prepared.clear_gradients()
        prepared.train_step()
    assert prepared.forward().mean() < 0.7 * first


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("sizes", [{}, {"num_kv_heads": 2, "head_dim": 8}])
def test_flops_are_two_a_weight_and_token_thrice_and_attention_by_its_pairs(family, sizes):
    if family == "gpt2" and sizes:
        pytest.skip("gpt2 has no grouped heads")
    shape, subject = replace(SHAPE, **sizes) if sizes else SHAPE, replace(SMALL, family=family)
    matrices = sum(parameter.numel() for name, parameter in subject.made(shape, "cpu", 0).named_parameters()
                   if parameter.dim() > 1 and not name.endswith(("embed_tokens.weight", "wpe.weight")))  # fmt: skip
    attention = 3 * attention_flops(shape, Causal())["forward_backward"]
    assert staged(subject, shape).flops["train_step"] == 6 * 48 * matrices + attention


def test_a_checkpointed_model_keeps_less_and_answers_the_same():
    kept, again = (staged(replace(SMALL, checkpoint=checkpoint), passes=("forward_backward",))
                   for checkpoint in (False, True))  # fmt: skip
    for one, other in zip(kept.forward_backward(), again.forward_backward(), strict=True):
        torch.testing.assert_close(one, other)
    saved = []
    for prepared in (kept, again):
        size = 0

        def pack(tensor):
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            prepared.forward()
        saved.append(size)
    assert saved[1] < 0.5 * saved[0]


def test_attention_s_share_is_that_of_the_time_it_takes():
    """A layer whose attention sleeps: forward and backward, with another's time between them."""
    import time

    class Sleeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            time.sleep(0.02)
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            time.sleep(0.04)
            return gradient

    spans = AttentionTimer("cpu")
    attend = spans.around(lambda q, k, v: Sleeps.apply(q + k + v))
    x = torch.randn(1, 4, 2, 8, requires_grad=True)

    def step():
        y = Sleeps.apply(attend(x * 1, x * 2, x * 3))
        torch.autograd.grad(y.sum(), x)

    step()
    assert spans.share(step) == pytest.approx(0.5, abs=0.1)
    assert torch.equal(attend(x, x, x), 3 * x)  # and nothing is left of the marks


@pytest.mark.parametrize("name", ["sdpa_flash", "naive"])
def test_the_layer_that_is_measured_goes_the_way_of_one_that_is_used(name):
    """With a projection served in one piece, where its backend has a form for that; and its share is still told."""
    shape = Shape(batch_size=2, seq_len=16, num_heads=4, emb_dim=32, dtype="float32")
    request, machine = Request(shape=shape, mask=Causal(), passes=("forward", "forward_backward")), detect("cpu")
    (backend,) = backends_named(name)
    attend, calls = backend.prepare(request, machine), list[str]()
    if whole := getattr(attend, "packed", None):
        attend.packed = lambda qkv, heads: (calls.append("whole"), whole(qkv, heads))[1]
    prepared = Layer().stage(request, backend, attend, machine, seed=0, checked_slices=1)
    before = prepared.forward_backward()
    assert calls == (["whole"] if name == "sdpa_flash" else [])
    assert 0 < prepared.spans.share(lambda: prepared.forward_backward()) < 1
    for mine, theirs in zip(before, prepared.forward_backward(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(("words", "told"), [
    (("passes=[train_step]",), "train_step needs parameters, and subject=kernel has none"),
    ((*TINY, "subject.family=bert"), "subject.family: expected one of llama, gpt2; got 'bert'"),
    ((*TINY, "subject.layers=0"), "subject.layers: expected a whole number of at least 1; got 0"),
    ((*TINY, "subject.precision=fp8"), "subject.precision: expected one of pure, autocast"),
    ((*TINY, "subject.checkpoint=3"), "subject.checkpoint: expected true or false; got 3"),
    ((*TINY, "subject.family=gpt2", "shape.num_kv_heads=2"), "expected as many key/value heads as heads"),
    ((*TINY, "shape.seq_len_kv=64"), "subject=model is self-attention"),
    ((*TINY, "subject.depth=3"), "subject.depth"),
])  # fmt: skip
def test_a_question_that_makes_no_sense_is_one_line(words, told, door):
    said = door(*words)
    assert said.code == 2 and told in said.err and said.err.count("\n") == 1


def test_without_transformers_it_says_what_to_install(door, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = door(*TINY)
    assert said.code == 2 and "pip install 'attn-lab[hf]'" in said.err


def test_a_layer_is_trained_too(door):
    told = door("subject=layer", "passes=[forward,train_step]", "backend=naive,sdpa_flash", "shape.num_kv_heads=2")
    assert told.statuses == ["ok", "ok"]
    for record in told.records:
        metrics = record["metrics"]
        assert metrics["train_step/time"]["value"] > metrics["forward/time"]["value"] > 0
        assert 0 < metrics["train_step/attention_share"]["value"] < 100
        assert metrics["memory/optimizer"]["value"] > 0
    assert "train step" in told.out


def test_a_case_that_does_not_train_has_none_of_it(door):
    told = door("subject=layer", "passes=[forward_backward]", "backend=naive")
    assert told.statuses == ["ok"]
    assert not [name for name in told.records[0]["metrics"] if "train_step" in name or name == "memory/optimizer"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*(name for name in backend_names() if name != "paired"), "sdpa_cudnn+flash4"])
@pytest.mark.parametrize("words", [
    (), ("shape.num_kv_heads=1",), ("subject.checkpoint=true",), ("subject.precision=autocast",),
    ("subject.family=gpt2", "shape.dtype=float16"),
], ids=lambda words: " ".join(words) or "llama")  # fmt: skip
def test_on_a_gpu_every_backend_trains_a_model_or_says_why_not(name, words, door):
    sizes = ("shape.seq_len=256", "shape.num_heads=4", "shape.emb_dim=256", "shape.dtype=bfloat16", "subject.mlp=512")
    given = {word.split("=")[0] for word in words}
    kept = (word for word in (*TINY, *sizes) if word.split("=")[0] not in given)
    last = {word.split("=")[0]: word for word in kept}
    told = door(*last.values(), *words, f"backend={name}", "device=cuda")
    (record,) = told.records
    assert record["status"] in ("ok", "unsupported"), record["reasons"]
    if record["status"] == "unsupported":
        pytest.skip("; ".join(record["reasons"]))
    metrics = {metric: told["value"] for metric, told in record["metrics"].items()}
    assert metrics["train_step/mfu"] > 0 and 0 < metrics["train_step/attention_share"] < 100
    assert metrics["memory/peak"] > metrics["memory/inputs"] + metrics["memory/optimizer"]
    assert metrics["kernel_check/kernels"] >= 4  # two layers, forward and backward
