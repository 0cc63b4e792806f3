"""Every backend × mask × shape, generated from what is declared: right to the oracle with gradients, or refused."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from attn_lab.backends.naive import Naive
from attn_lab.backends.paired import Paired
from attn_lab.backends.sdpa_cudnn import gradient_laid_as_output
from attn_lab.cli.doctor import _diagnosis
from attn_lab.core.backend import Backend
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.machine import Machine, detect, software
from attn_lab.core.mask import Mask
from attn_lab.core.request import PASSES, Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.masks.document import Document
from attn_lab.masks.full import Full
from attn_lab.masks.prefix_lm import PrefixLM
from attn_lab.masks.sliding_window import SlidingWindow
from attn_lab.measure.probes.accuracy import Accuracy
from attn_lab.measure.probes.kernel_check import KernelCheck
from attn_lab.measure.subjects.kernel import Kernel
from attn_lab.measure.subjects.layer import Layer
from attn_lab.nn.auto.resolve import backends_named

CONF = Path(__file__).parents[1] / "conf"
BACKENDS: dict[str, Backend] = {
    file.stem: instantiate(OmegaConf.load(file))
    for file in sorted((CONF / "backend").glob("*.yaml"))
    if file.stem != "auto"
}
PAIRS = ("naive+sdpa_flash", "sdpa_flash+naive", "naive_fp32+naive", "flash2+sdpa_cudnn", "flash4+flash2",
         "sdpa_flash+flash4", "sdpa_cudnn+sdpa_cudnn", "sdpa_cudnn+sdpa_flash")  # fmt: skip
BACKENDS |= {name: backends_named(name)[0] for name in PAIRS}
MASKS: dict[str, Mask] = {
    "full": Full(),
    "causal": Causal(),
    "sliding_window": SlidingWindow(window=21),
    "prefix_lm": PrefixLM(prefix=19),
    "document": Document(lengths=(13, 40, 1, 26)),
}
SQUARE = {"batch_size": 2, "seq_len": 64, "num_heads": 4, "emb_dim": 256}
SHAPES = {
    "square": SQUARE,
    "odd": SQUARE | {"seq_len": 67},
    "long": SQUARE | {"seq_len": 515},
    "grouped": SQUARE | {"num_heads": 8, "num_kv_heads": 2},
    "one_kv_head": SQUARE | {"num_kv_heads": 1, "seq_len": 77},
    "longer_keys": SQUARE | {"seq_len": 33, "seq_len_kv": 80},
    "one_query": SQUARE | {"seq_len": 1, "seq_len_kv": 80},
    "fewer_keys": SQUARE | {"seq_len": 80, "seq_len_kv": 33},
    "one_token": SQUARE | {"seq_len": 1},
    "grouped_longer_keys": SQUARE
    | {"num_heads": 6, "emb_dim": 384, "num_kv_heads": 2, "seq_len": 41, "seq_len_kv": 90},
    "head_dim_32": SQUARE | {"head_dim": 32},
    "head_dim_96": SQUARE | {"head_dim": 96},
    "head_dim_128": SQUARE | {"head_dim": 128},
    "head_dim_256": SQUARE | {"head_dim": 256},
    "head_dim_40": SQUARE | {"head_dim": 40},
    "head_dim_12": SQUARE | {"head_dim": 12},
}
DTYPES = ("float16", "bfloat16", "float32")
gpu = pytest.mark.gpu
KERNEL = Kernel()


def _cases(device: str):
    """(backend, mask, shape, dtype) worth running: all of them on a GPU, on the CPU as many as its compiler allows."""
    for name, mask, shape, dtype in product(BACKENDS, MASKS, SHAPES, DTYPES):
        if device not in BACKENDS[name].capabilities:
            continue
        if device == "cpu" and name == "flex" and (mask, shape, dtype) not in FLEX_ON_CPU:
            continue  # ten seconds of C++ compiler each
        if "+" in name and mask not in ("full", "causal", "sliding_window"):
            continue  # halves know no other kinds, but on the CPU
        if "+" in name and (shape, dtype) == ("one_token", "float32"):
            continue  # the weight is 1 exactly; two that round a score differently differ by its ulp, past the rule
        if device == "cpu" and dtype != "float32" and shape not in ("square", "grouped_longer_keys"):
            continue
        if device == "cuda" and dtype != "float16" and shape not in ("square", "odd", "grouped_longer_keys"):
            continue
        # Seconds of compiler each:
        compiled = device == "cuda" and {"flex", "flash4"} & set(name.replace("paired", "flash4").split("+"))
        if compiled and (
            (dtype != "float16" and shape != "square") or (shape.startswith("head_dim") and mask != "causal")
        ):
            continue
        yield pytest.param(name, mask, shape, dtype, id=f"{name}-{mask}-{shape}-{dtype}")


FLEX_ON_CPU = {("document", "odd", "float32"), ("full", "grouped", "float32"), ("causal", "longer_keys", "float32")}


def _check(name: str, mask: str, shape: str, dtype: str, device: str, subject=KERNEL) -> list[str]:
    """Refusals, or [] after the answer and the kernels passed their probes."""
    backend, machine = BACKENDS[name], detect(device)
    passes = PASSES if backend.capabilities[device].backward else ("forward",)
    request = Request(shape=Shape(**SHAPES[shape], dtype=dtype), mask=MASKS[mask], passes=passes)
    if device == "cuda" and name == "flash3" and "flash-attn-3" not in machine.packages:
        request = replace(request, passes=("forward",))
    reasons = backend.unsupported_reasons(request, machine)
    if not reasons:
        attend = backend.prepare(request, machine)
        prepared = subject.stage(request, backend, attend, machine, seed=1, checked_slices=4)
        names = [m.name for probe in (Accuracy(), KernelCheck()) for m in probe.measure(prepared)]
        assert {"accuracy/out", "kernel_check/kernels"} <= set(names)
        assert ("accuracy/dq" in names or "accuracy/dx" in names) == request.needs_backward
    return reasons


@pytest.mark.parametrize(("name", "mask", "shape", "dtype"), list(_cases("cpu")))
def test_right_or_refused_on_cpu(name, mask, shape, dtype):
    reasons = _check(name, mask, shape, dtype, "cpu")
    assert not reasons or shape == "fewer_keys", reasons  # CPU backends refuse only rows that see nothing


@gpu
@pytest.mark.parametrize(("name", "mask", "shape", "dtype"), list(_cases("cuda")))
def test_right_or_refused_on_gpu(name, mask, shape, dtype):
    machine_reasons = BACKENDS[name].machine_reasons(detect("cuda"))
    if machine_reasons:
        pytest.skip("; ".join(machine_reasons))
    reasons = _check(name, mask, shape, dtype, "cuda")
    if (mask, shape, dtype) == ("causal", "square", "float16"):
        assert reasons == []  # the study's own question: nobody may refuse it


@pytest.mark.parametrize("name", ["naive", "naive_fp32", "sdpa_math", "sdpa_flash"])
@pytest.mark.parametrize("mask", ["causal", "sliding_window"])
@pytest.mark.parametrize("shape", ["square", "grouped", "head_dim_96"])
def test_layer_is_right_on_cpu(name, mask, shape):
    assert _check(name, mask, shape, "float32", "cpu", Layer(bias=True)) == []


@gpu
@pytest.mark.parametrize("name", list(BACKENDS))
@pytest.mark.parametrize("shape", ["square", "grouped"])
def test_layer_is_right_on_gpu(name, shape):
    machine_reasons = BACKENDS[name].machine_reasons(detect("cuda"))
    if machine_reasons:
        pytest.skip("; ".join(machine_reasons))
    reasons = _check(name, "causal", shape, "bfloat16", "cuda", Layer())
    assert not reasons or shape == "grouped", reasons


H100 = Machine(
    device="cuda", name="NVIDIA H100 80GB HBM3", memory=80 * 2**30, capability=(9, 0),
    packages={"flash-attn": "2.8.3", "flash-attn-4": "4.0.0", "tokenspeed-fa3": "3.0.0"},
)  # fmt: skip


def test_versions_are_told_without_a_look_at_the_gpu():
    """To ask torch for cuDNN's version opens the GPU, which the process of a sweep must not: the machine knows it."""
    machine = replace(H100, cudnn="91900")
    assert software(machine)["cudnn"] == "91900"  # which this torch, here, does not have
    assert "cudnn" not in machine.as_json()


A_QUESTION = Request(shape=Shape(**SQUARE, dtype="float16"), mask=Causal())


@pytest.mark.parametrize(
    ("asked", "capabilities", "told"),
    [
        ({"dtype": "float32"}, Capabilities(dtypes=("float16",)), ["float16", "float32"]),
        ({"head_dim": 257}, Capabilities(head_dim=(8, 256)), ["8 to 256", "257"]),
        ({"head_dim": 12}, Capabilities(head_dim_multiple=8), ["multiples of 8", "12"]),
        ({"num_kv_heads": 2}, Capabilities(grouped_heads=False), ["num_kv_heads", "2"]),
        ({"head_dim": 104}, Capabilities(excluded_head_dims=(104, 112)), ["all but 104, 112", "asked 104"]),
        ({"head_dim": 40}, Capabilities(forward_only_head_dims=(40, 48)), ["incorrect at 40, 48", "passes=[forward]"]),
        ({"batch_size": 65536}, Capabilities(max_batch_size=65535), ["at most 65535", "65536"]),
        ({}, Capabilities(masks=("full",)), ["full", "causal"]),
        ({"seq_len_kv": 65}, Capabilities(square_masks=("causal",)), ["64", "65"]),
        ({"seq_len_kv": 63}, Capabilities(), ["no key"]),
        ({}, Capabilities(backward=False), ["forward only", "passes=[forward]"]),
        ({}, Capabilities(backward_elements=100), ["at most 100", str(2 * 64 * 256)]),
    ],
)
def test_each_limit_states_itself_and_what_was_asked(asked, capabilities, told):
    (reason,) = capabilities.of_request(replace(A_QUESTION, shape=Shape(**(SQUARE | {"dtype": "float16"} | asked))))
    for word in told:
        assert word in reason


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"capability": (7, 5)}, ["8.0", "7.5"]),
        ({"packages": {}}, ["flash-attn", "pip install --no-build-isolation 'flash-attn"]),
        ({"device": "cpu", "capability": None}, ["devices: cuda", "cpu"]),
    ],
)
def test_would_flash2_run_there_is_a_question_for_a_laptop(change, told):
    assert BACKENDS["flash2"].unsupported_reasons(A_QUESTION, H100) == []
    (reason,) = BACKENDS["flash2"].unsupported_reasons(A_QUESTION, replace(H100, **change))
    for word in told:
        assert word in reason


def test_a_refusal_holds_all_reasons_at_once():
    shape = Shape(**(SQUARE | {"head_dim": 258, "dtype": "float32"}))
    machine = replace(H100, device="cpu", capability=None, packages={})
    reasons = BACKENDS["flash2"].unsupported_reasons(Request(shape=shape, mask=PrefixLM(prefix=4)), machine)
    for word in ("devices", "package", "dtypes", "mask kinds", "head_dim"):
        assert any(word in reason for reason in reasons), (word, reasons)


@pytest.mark.parametrize("name", ["sdpa_flash", "sdpa_cudnn"])
def test_gradients_of_tensors_past_2_to_the_31_elements_are_refused(name):
    """On an H100 torch 2.11 had them wrong, and said nothing."""

    def asked(batch_size: int, passes: tuple[str, ...] = PASSES) -> Request:
        sizes = {"seq_len": 128, "num_heads": 16, "num_kv_heads": 1, "head_dim": 128, "emb_dim": 2048}
        return Request(shape=Shape(batch_size=batch_size, **sizes, dtype="float16"), mask=Causal(), passes=passes)

    for unsupported_reasons in (
        BACKENDS[name].unsupported_reasons,
        BACKENDS[name].split_reasons,
        Paired(Naive(), BACKENDS[name]).unsupported_reasons,
    ):
        assert unsupported_reasons(asked(8191), H100) == []
        (reason,) = unsupported_reasons(asked(8192), H100)
        assert str(2**31 - 1) in reason and str(2**31) in reason and "backward" in reason
        assert unsupported_reasons(asked(8193, ("forward",)), H100) == []


LAYOUTS = {"as the layer's": (0, 1, 2, 3), "heads first": (0, 2, 1, 3), "positions first": (1, 0, 2, 3)}
GRADIENTS = {
    "alike": lambda alike: alike,
    "heads apart": lambda alike: alike.transpose(1, 2).contiguous().transpose(1, 2),
    "with gaps": lambda alike: torch.cat([alike, alike], 1)[:, : alike.shape[1]],
    "spread": lambda alike: alike[:, :, :1, :1].expand(alike.shape),
}


@pytest.mark.parametrize("gradient", list(GRADIENTS))
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_gradient_reaches_cudnn_laid_out_as_the_output(layout, gradient):
    """Or would be read as another lay; and is not copied where it lies so already."""
    order = LAYOUTS[layout]
    q = torch.randn([(2, 6, 4, 8)[axis] for axis in order]).permute([order.index(axis) for axis in range(4)])
    arrived = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(q).copy_(q.detach()).requires_grad_()
        out.register_hook(arrived.append)
        return out

    out = gradient_laid_as_output(attend)(q, q, q)
    assert torch.equal(out, q) and out.stride() == q.stride()
    dout = GRADIENTS[gradient](torch.randn_like(q))
    out.backward(dout)
    (grad,) = arrived
    assert torch.equal(grad, dout) and grad.stride() == q.stride()
    assert (grad.data_ptr() == dout.data_ptr()) == (dout.stride() == q.stride())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("passes", [("forward",), PASSES])
@pytest.mark.parametrize("name", ["sdpa_flash", "sdpa_cudnn"])
def test_what_a_gpu_is_called_with_is_understood_and_traced_in_one_piece(name, passes, compiled):
    """On tensors without data: torch knows its operators' arguments and shapes there, and no GPU is needed."""
    torch._dynamo.reset()
    attend = BACKENDS[name].prepare(replace(A_QUESTION, passes=passes), H100)
    leaves = torch.empty(3, 2, 64, 4, 64, device="meta", dtype=torch.float16, requires_grad=len(passes) > 1).unbind()
    out = (torch.compile(attend, fullgraph=True, backend="aot_eager") if compiled else attend)(*leaves)
    assert out.shape == leaves[0].shape and out.is_contiguous()
    if out.requires_grad:
        grads = torch.autograd.grad(out, leaves, torch.empty_like(out))
        assert [grad.shape for grad in grads] == [out.shape] * 3


@pytest.mark.parametrize("passes", [("forward",), PASSES])
@pytest.mark.parametrize("name", ["sdpa_flash", "sdpa_cudnn"])
def test_a_projection_in_one_piece_is_what_its_parts_are(name, passes):
    """Its gradient lies as it does, so that none is copied on the way to the weights."""
    backward = len(passes) > 1
    machine = H100 if name == "sdpa_cudnn" else detect("cpu")
    shape = Shape(batch_size=2, seq_len=19, num_heads=6, num_kv_heads=2, head_dim=8, emb_dim=48, dtype="float16")
    attend = BACKENDS[name].prepare(Request(shape=shape, mask=Causal(), passes=passes), machine)
    device = "meta" if name == "sdpa_cudnn" else "cpu"
    qkv = torch.randn(2, 19, 10, 8, dtype=torch.float16, device=device, requires_grad=backward)
    whole = attend.packed(qkv, (6, 2, 2))
    parts = attend(*qkv.split((6, 2, 2), dim=2)).flatten(2)
    assert whole.shape == parts.shape == (2, 19, 48) and whole.is_contiguous()
    assert device == "meta" or torch.equal(whole, parts)
    if backward:
        dout = torch.randn_like(whole)
        (grad,), (expected,) = torch.autograd.grad(whole, qkv, dout), torch.autograd.grad(parts, qkv, dout)
        assert grad.stride() == qkv.stride() and (device == "meta" or torch.equal(grad, expected))


def test_forward_only_flash3_refuses_a_backward_and_runs_a_forward():
    (reason,) = BACKENDS["flash3"].unsupported_reasons(A_QUESTION, H100)
    assert "tokenspeed-fa3 is a forward-only build" in reason
    assert BACKENDS["flash3"].unsupported_reasons(replace(A_QUESTION, passes=("forward",)), H100) == []
    whole = replace(H100, packages={"flash-attn-3": "3.0"})
    assert BACKENDS["flash3"].unsupported_reasons(A_QUESTION, whole) == []


LEFT_OVER = (8, 24, 136)  # keys: of blocks of 16, half a block is left over


@torch._dynamo.config.patch(recompile_limit=1)  # monkeypatch's undo would delete it
def test_flex_keeps_compiling_past_dynamos_limit_of_eight_shapes():
    """Else the ninth shape in a process is silently another algorithm."""
    for seq_len in LEFT_OVER:  # what another test has inductor compile as well, and inductor keeps
        shape = Shape(batch_size=1, seq_len=seq_len, num_heads=1, emb_dim=32, dtype="float32")
        request = Request(shape=shape, mask=Full(), passes=("forward",))
        attend = BACKENDS["flex"].prepare(request, detect("cpu"))
        q, k, v = torch.randn(3, 1, seq_len, 1, 32)
        torch.testing.assert_close(attend(q, k, v)[:, :, 0], _plain(q, k, v), atol=1e-5, rtol=1e-5)


def _plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q[:, :, 0] @ k[:, :, 0].mT * q.shape[-1] ** -0.5, -1) @ v[:, :, 0]


@pytest.mark.parametrize("head_dim", [24, 32, 40])
def test_flex_is_right_on_the_cpu_where_keys_are_left_over_of_a_block(head_dim):
    """Under 24 channels it is not, in three answers of ten, and refuses."""
    for seq_len in LEFT_OVER:
        shape = Shape(batch_size=1, seq_len=seq_len, num_heads=1, emb_dim=head_dim, dtype="float32")
        request = Request(shape=shape, mask=Full(), passes=("forward",))
        attend = BACKENDS["flex"].prepare(request, detect("cpu"))
        for seed in range(30):
            q, k, v = torch.randn(3, 1, seq_len, 1, head_dim, generator=torch.Generator().manual_seed(seed))
            torch.testing.assert_close(attend(q, k, v)[:, :, 0], _plain(q, k, v), atol=1e-5, rtol=1e-5)
    narrow = Request(shape=Shape(batch_size=1, seq_len=8, num_heads=1, emb_dim=16, dtype="float32"), mask=Full(),
                     passes=("forward",))  # fmt: skip
    (reason,) = BACKENDS["flex"].unsupported_reasons(narrow, detect("cpu"))
    assert "head_dim" in reason and "asked 16" in reason


def test_doctor_tells_of_a_package_that_is_there_and_does_not_load():
    class Broken(Naive):
        def prepare(self, request, machine):
            raise OSError("libcudart.so.12: cannot open shared object file")

    (reason,), cure = _diagnosis(Broken(), detect("cpu"))
    assert "does not load" in reason and "libcudart.so.12" in reason and cure == ""
    assert _diagnosis(Naive(), detect("cpu")) == ([], "")
