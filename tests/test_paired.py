"""Pairs: one backend's forward with another's backward, from the command line to the layer, and kept honest."""

import copy
import json
import pickle
import runpy
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch.utils.checkpoint import checkpoint

from attn_lab import Attention
from attn_lab.backends.flash2 import Flash2
from attn_lab.backends.flash4 import Flash4
from attn_lab.backends.naive import Naive
from attn_lab.backends.naive_fp32 import NaiveFP32
from attn_lab.backends.paired import Paired
from attn_lab.backends.sdpa_flash import SdpaFlash
from attn_lab.backends.sdpa_math import SdpaMath
from attn_lab.config.basis import basis_of
from attn_lab.core.backend import Split
from attn_lab.core.errors import BadRequest, Incorrect, Unsupported
from attn_lab.core.machine import Machine, detect
from attn_lab.core.request import PASSES, Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.masks.sliding_window import SlidingWindow
from attn_lab.measure.probes.accuracy import Accuracy
from attn_lab.measure.probes.kernel_check import KernelCheck
from attn_lab.measure.subjects.kernel import Kernel
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.registry import paired_named

H100 = Machine(
    device="cuda", name="NVIDIA H100 80GB HBM3", memory=80 * 2**30, capability=(9, 0),
    packages={"flash-attn": "2.8.3", "flash-attn-4": "4.0.0"},
)  # fmt: skip
SHAPE = Shape(batch_size=2, seq_len=24, num_heads=4, num_kv_heads=2, emb_dim=64, dtype="float32")
CAUSAL = Request(shape=SHAPE, mask=Causal())
HALF = replace(CAUSAL, shape=replace(SHAPE, dtype="float16", head_dim=64))


def verified(backend: Paired, request: Request = CAUSAL) -> None:
    """Raises Wrong, as a case would end."""
    attend = backend.prepare(request, detect("cpu"))
    prepared = Kernel().stage(request, backend, attend, detect("cpu"), seed=1, checked_slices=2)
    for probe in (Accuracy(), KernelCheck()):
        list(probe.measure(prepared))


def test_a_word_makes_a_pair_of_two_names():
    (pair,) = backends_named("naive+sdpa_flash")
    assert pair == Paired(Naive(), SdpaFlash()) == paired_named("naive", "sdpa_flash")
    assert pair.label == "naive+sdpa_flash"
    assert paired_named(Naive(), "flash4") == Paired(Naive(), Flash4())


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("naive+flash5", "backend.backward: expected flash2, .*got 'flash5'"),
        ("+naive", "backend.forward: .*got ''"),
        ("naive+naive+naive", r"backend.backward: .*got 'naive\+naive'"),
        ("paired", r"FORWARD\+BACKWARD.*got 'paired'"),
        ("paired+naive", "backend.forward: .*got 'paired'"),
    ],
)
def test_a_word_that_makes_no_pair_is_told_what_would(asked, told):
    with pytest.raises(BadRequest, match=told):
        backends_named(asked)


def test_on_the_command_line_a_pair_is_a_rival_like_any_other(door):
    told = door("backend=sdpa_flash,naive+sdpa_flash,flash2+flash4", "shape.seq_len=16,32", "aa_repeat=true")
    ran = [(record["case"]["backend"], record["case"]["shape"]["seq_len"]) for record in told.records]
    names = ["sdpa_flash", "naive+sdpa_flash", "flash2+flash4", "sdpa_flash"]
    assert ran == [(name, seq_len) for seq_len in (16, 32) for name in names]
    assert told.statuses == ["ok", "ok", "unsupported", "ok"] * 2
    pair = told.records[1]
    assert "_flash_attention_for_cpu_backward" in pair["metrics"]["kernel_check/kernels"]["note"]
    assert "softmax" in pair["metrics"]["kernel_check/kernels"]["note"]
    assert "naive+sdpa_flash " in told.out and "backend." not in told.out
    reasons = told.records[2]["reasons"]
    assert any(reason.startswith("forward flash2: devices") for reason in reasons)
    assert any(reason.startswith("backward flash4: needs package flash-attn-4") for reason in reasons)


def run_script(monkeypatch, name: str, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")


def test_a_run_tells_which_pair_beats_its_best_single_and_by_how_much(door, monkeypatch, capfd):
    told = door(
        "backend=naive,sdpa_flash,naive+sdpa_flash,flash2+flash4", "aa_repeat=true", "passes=[forward_backward]"
    )
    (records,) = told.folder.glob("runs/**/records.jsonl")
    run_script(monkeypatch, "pairs_against_singles.py", str(records.parent), "--json", "pairs.json")
    found = {each["backend"]: each for each in json.loads(Path("pairs.json").read_text())}
    assert set(found) == {"naive", "sdpa_flash", "naive+sdpa_flash"}
    pair = found["naive+sdpa_flash"]
    single = min(found["naive"]["ms"], found["sdpa_flash"]["ms"])
    assert found[pair["best_single"]]["ms"] == single and pair["low"] <= pair["ratio"] <= pair["high"]
    assert f"of {pair['best_single']}'s speed: {pair['word']}" in (said := capfd.readouterr().out)
    assert "flash2+flash4: unsupported: forward flash2: devices" in said


def test_a_layer_is_held_against_its_parts_and_pytorchs_own(monkeypatch, capsys, tmp_path):
    words = ("--backends", "sdpa_flash,sdpa_flash+naive,flash4", "--shape", "1,16,2,32", "--rounds", "6")
    run_script(monkeypatch, "layer_against_parts.py", *words, "--device", "cpu", "--json", str(tmp_path / "parts.json"))
    found = json.loads((tmp_path / "parts.json").read_text())
    layers = [f"{what} {name}" for name in ("sdpa_flash", "sdpa_flash+naive") for what in ("layer", "kernel")]
    assert list(found) == ["nn.MultiheadAttention", "projections alone", *layers]
    said = capsys.readouterr().out
    assert said.count("× nn.MultiheadAttention") == said.count("× its parts") == 2
    assert "flash4 refuses: devices: cuda" in said


def test_forwards_and_backwards_are_swept_as_any_other_axis(door):
    told = door("backend=paired", "backend.forward=naive,sdpa_flash", "backend.backward=naive_fp32,naive",
                "shape.seq_len=16,32", "probe=[accuracy]")  # fmt: skip
    names = [f"{into}+{back}" for into in ("naive", "sdpa_flash") for back in ("naive_fp32", "naive")]
    asked = [(record["case"]["shape"]["seq_len"], record["case"]["backend"]) for record in told.records]
    assert asked == [(seq_len, name) for seq_len in (16, 32) for name in names]
    assert told.statuses == ["ok"] * 8
    assert len({record["case"]["id"] for record in told.records}) == 8


def test_a_pair_needs_no_rival(door):
    told = door("backend=naive+sdpa_flash", "probe=[accuracy]", "subject=layer")
    assert [(record["case"]["backend"], record["status"]) for record in told.records] == [("naive+sdpa_flash", "ok")]


@pytest.mark.parametrize(
    ("asked", "culprit"),
    [
        ("naive,naive+flash5", "backward"),
        ("naive+flash5", "backward"),
        ("flash5+naive", "forward"),
        ("flex+", "backward"),
    ],
)
def test_a_half_that_is_no_backend_fails_before_anything_runs(door, asked, culprit):
    told = door(f"backend={asked}", "shape.seq_len=16,32")
    assert told.code == 2 and not told.records
    got = "''" if asked == "flex+" else "'flash5'"
    assert f"backend.{culprit}: expected flash2" in told.err and f"got {got}" in told.err


def test_a_refusal_names_the_half_and_holds_all_reasons_of_both():
    request = Request(shape=replace(SHAPE, head_dim=20, dtype="float32"), mask=SlidingWindow(window=4), dropout=0.1)
    reasons = Paired(SdpaFlash(), Flash4()).unsupported_reasons(request, H100)
    for half, words in {"forward sdpa_flash: ": ("dtypes", "mask kinds", "multiples of 8", "dropout"),
                        "backward flash4: ": ("dtypes", "multiples of 8", "dropout")}.items():  # fmt: skip
        told = [reason for reason in reasons if reason.startswith(half)]
        assert len(told) == len(words) and all(any(word in reason for reason in told) for word in words), reasons


def test_what_does_not_come_by_halves_cannot_be_paired():
    for pair, half in ((Paired(SdpaMath(), Naive()), "forward"), (Paired(Naive(), SdpaMath()), "backward")):
        (reason,) = pair.unsupported_reasons(CAUSAL, detect("cpu"))
        assert reason == f"{half} sdpa_math: its kernels cannot be had by halves"
    with pytest.raises(Unsupported, match="halves"):
        SdpaMath().split(CAUSAL, detect("cpu"))


def test_flash3_gives_a_forward_and_no_backward():
    machine = replace(H100, packages={"tokenspeed-fa3": "3.0", "flash-attn-4": "4.0"})
    assert paired_named("flash3", "flash4").unsupported_reasons(HALF, machine) == []
    (reason,) = paired_named("flash4", "flash3").unsupported_reasons(HALF, machine)
    assert reason.startswith("backward flash3: passes: forward only")


def test_would_a_pair_run_there_is_a_question_for_a_laptop():
    assert paired_named("sdpa_cudnn", "flash4").unsupported_reasons(HALF, H100) == []
    longer = replace(HALF, shape=replace(HALF.shape, seq_len=8))
    (reason,) = paired_named("sdpa_cudnn", "flash4").unsupported_reasons(longer, H100)
    assert reason.startswith("forward sdpa_cudnn: causal mask only where")  # torch's meaning of it is another


def test_without_a_backward_the_forward_half_answers_as_it_would_alone():
    request = Request(shape=SHAPE, mask=SlidingWindow(window=4), passes=("forward",), dropout=0.5)
    assert Paired(Naive(), SdpaFlash()).unsupported_reasons(request, detect("cpu")) == []
    q, k, v = torch.randn(2, 24, 4, 16), *torch.randn(2, 2, 24, 2, 16)
    torch.manual_seed(0)
    out = Paired(Naive(), SdpaFlash()).prepare(request, detect("cpu"))(q, k, v)
    torch.manual_seed(0)
    assert torch.equal(out, Naive().prepare(request, detect("cpu"))(q, k, v))
    (reason,) = Paired(Naive(), Flash4()).unsupported_reasons(request, replace(H100, packages={}))
    assert reason.startswith("backward flash4: needs package")


@dataclass(frozen=True)
class AnothersBackward(SdpaFlash):
    def split(self, request: Request, machine: Machine) -> Split:
        return Split(super().split(request, machine).forward, Naive().split(request, machine).backward)


class FlashUnderAnothersName(Naive):
    def split(self, request: Request, machine: Machine) -> Split:
        return SdpaFlash().split(request, machine)


class OtherLogarithm(SdpaFlash):
    """As xFormers' and some others' kernels leave it."""

    def split(self, request: Request, machine: Machine) -> Split:
        halves = super().split(request, machine)

        def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            out, lse = halves.forward(q, k, v)
            return out, lse / torch.log(torch.tensor(2.0))

        return Split(forward, halves.backward)


def test_a_sound_pair_passes_and_the_planted_ones_do_not():
    verified(Paired(Naive(), SdpaFlash()))
    with pytest.raises(Incorrect, match="backward: expected a kernel matching"):
        verified(Paired(Naive(), AnothersBackward()))
    with pytest.raises(
        Incorrect, match="backward: launched another's kernels: aten::_scaled_dot_product_flash_attention"
    ):
        verified(Paired(Naive(), FlashUnderAnothersName()))
    with pytest.raises(Incorrect, match="forward: launched another's kernels"):
        verified(Paired(FlashUnderAnothersName(), SdpaFlash()))
    with pytest.raises(Incorrect, match="dq"):
        verified(Paired(OtherLogarithm(), SdpaFlash()))


def test_an_answer_stands_on_the_files_and_packages_of_both():
    def basis(*names: str) -> dict[str, str]:
        return basis_of(paired_named(*names), (), H100)

    assert basis("flash2", "flash4").items() >= {"flash-attn": "2.8.3", "flash-attn-4": "4.0.0"}.items()
    sources = [basis(*names)["source"] for names in (("naive", "flash2"), ("naive", "flash4"), ("flash2", "flash4"))]
    assert len(set(sources)) == 3
    assert "flash-attn" not in basis("naive", "flash4")


def pair_and_plain(name: str, **options) -> tuple[Attention, Attention]:
    layer = Attention(48, 6, 2, backend=name, rope=10000.0, **options)
    plain = copy.deepcopy(layer)
    plain.backend = "naive"
    return layer, plain


def gradients(layer: torch.nn.Module, out: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out.dtype)
    return list(torch.autograd.grad(out, [x, *layer.parameters()], cotangent))


@pytest.mark.parametrize("name", ["naive+sdpa_flash"])
def test_a_compiled_layer_takes_one_length_after_another(name):
    """From the second on torch leaves the length open, and a function for one size serves the length at hand."""
    torch.compiler.reset()  # its limit of graphs is the process's
    layer, plain = pair_and_plain(name)
    compiled = torch.compile(layer, fullgraph=True)
    for length in (16, 19, 25):
        x = torch.randn(2, length, 48, requires_grad=True)
        out, expected = compiled(x), plain(x)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(gradients(layer, out, x), gradients(plain, expected, x))


@pytest.mark.parametrize("name", ["naive+sdpa_flash", "sdpa_flash+naive"])
@pytest.mark.parametrize("how", ["eager", "compiled", "checkpointed", "autocast", "pickled"])
def test_a_layer_with_a_pair_is_the_same_layer_however_it_is_run(name, how):
    torch.compiler.reset()  # its limit of graphs is the process's
    layer, plain = pair_and_plain(name)
    x = torch.randn(2, 19, 48, requires_grad=True)
    expected = plain(x)
    grads = gradients(plain, expected, x)
    tolerance = {"atol": 0.08, "rtol": 0.08} if how == "autocast" else {}
    if how == "compiled":
        out = torch.compile(layer, fullgraph=True)(x)
    elif how == "checkpointed":
        out = checkpoint(layer, x, use_reentrant=False)
    elif how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x)
        assert out.dtype == torch.bfloat16
    else:
        layer = pickle.loads(pickle.dumps(layer)) if how == "pickled" else layer
        out = layer(x)
    torch.testing.assert_close(out.float(), expected, **tolerance)
    torch.testing.assert_close(gradients(layer, out, x), grads, **tolerance)


class WritesWhereTold(Naive):
    """As flash-attn 2 and 4 do."""

    def split(self, request: Request, machine: Machine) -> Split:
        halves = super().split(request, machine)

        def into(*tensors: torch.Tensor) -> None:
            for there, grad in zip(tensors[6:], halves.backward(*tensors[:6]), strict=True):
                there.copy_(grad)

        return Split(halves.forward, halves.backward, into)


@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 2}, {"bias": True}, {"rope": 10000.0}, {"qk_norm": True}])
def test_gradients_of_the_packed_projection_come_packed_and_are_the_same(options):
    layer = Attention(48, 6, backend=Paired(SdpaFlash(), WritesWhereTold()), **options)
    plain = copy.deepcopy(layer)
    plain.backend = "naive"
    x = torch.randn(2, 19, 48, requires_grad=True)
    out, expected = layer(x), plain(x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(gradients(layer, out, x), gradients(plain, expected, x))
    graph, told = [layer(x).grad_fn], set()
    while graph:
        node = graph.pop()
        told.add(node.name())
        graph += [before for before, _ in node.next_functions if before is not None]
    anew = {"rope", "qk_norm"} & options.keys()  # of what was turned or normed, gradients have a way to go
    assert ("SplitWithSizesBackward0" in told) == bool(anew), told


def test_a_pair_is_exported_for_inference():
    layer, plain = pair_and_plain("naive+sdpa_flash")
    x = torch.randn(2, 19, 48)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), plain(x))


def test_a_second_derivative_is_refused_and_not_wrong():
    q = torch.randn(2, 24, 4, 16, requires_grad=True)
    k, v = torch.randn(2, 2, 24, 2, 16)
    out = Paired(Naive(), SdpaFlash()).prepare(CAUSAL, detect("cpu"))(q, k, v)
    with pytest.raises(RuntimeError, match="first derivative only"):
        torch.autograd.grad(out.sum(), q, create_graph=True)


def test_of_pairs_preferred_each_tells_why_it_was_passed_over():
    layer = Attention(48, 6, backend=["sdpa_cudnn+flash4", "flash2+flash4", "naive+sdpa_flash"])
    layer(torch.randn(1, 5, 48))
    assert layer.backend == Paired(Naive(), SdpaFlash())
    assert list(layer.choices[-1].passed_over) == ["sdpa_cudnn+flash4", "flash2+flash4"]
    assert "naive+sdpa_flash; sdpa_cudnn+flash4 refuses: forward sdpa_cudnn: devices" in str(layer.choices[-1])
    with pytest.raises(Unsupported, match=r"^flash2\+flash4 refuses: forward flash2"):
        Attention(48, 6, backend=paired_named(Flash2(), Flash4()))(torch.randn(1, 5, 48))


@pytest.mark.parametrize("passes", [("backward",), ("forward_backward",), PASSES])
def test_every_pass_with_a_backward_asks_both_halves(passes):
    assert Paired(NaiveFP32(), SdpaMath()).unsupported_reasons(replace(CAUSAL, passes=passes), detect("cpu"))
