"""The wiring of GPU libraries' halves, on a CPU: stand-ins for the packages; the kernels need `-m gpu`."""

import sys
from itertools import product
from types import ModuleType

import pytest
import torch

from attn_lab import Attention
from attn_lab.backends.flash2 import Flash2
from attn_lab.backends.flash3 import Flash3
from attn_lab.backends.flash4 import Flash4
from attn_lab.backends.naive import Naive
from attn_lab.backends.naive_fp32 import NaiveFP32
from attn_lab.backends.paired import Paired
from attn_lab.core.backend import Backend
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.machine import detect
from attn_lab.core.mask import CAUSAL, Band
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.masks.sliding_window import SlidingWindow

ANYWHERE = {"cpu": Capabilities()}


def reference(q: torch.Tensor, k: torch.Tensor, scale: float, band: Band):
    """The halves that every package's kernels stand for, of tensors like these."""
    shape = Shape(batch_size=q.shape[0], seq_len=q.shape[1], seq_len_kv=k.shape[1], num_heads=q.shape[2],
                  num_kv_heads=k.shape[2], head_dim=q.shape[3], emb_dim=64, dtype="float32")  # fmt: skip
    mask = Causal() if band == CAUSAL else SlidingWindow(window=band[0] + 1) if band[0] is not None else None
    assert mask is not None and (mask.band == band)
    return NaiveFP32().split(Request(shape=shape, mask=mask, scale=scale), detect("cpu"))


def flash2_module() -> dict[str, ModuleType]:
    package, interface = ModuleType("flash_attn"), ModuleType("flash_attn.flash_attn_interface")

    def forward(q, k, v, dropout, scale, causal, left, right, softcap, alibi, return_softmax):
        assert (dropout, softcap, alibi, return_softmax) == (0.0, 0.0, None, False)
        band = CAUSAL if causal else (left, right)
        return *reference(q, k, scale, band).forward(q, k, v), torch.empty(0), torch.empty(2)

    def backward(dout, q, k, v, out, lse, dq, dk, dv, dropout, scale, causal, left, right, softcap, alibi, same):
        assert (dropout, softcap, alibi, same) == (0.0, 0.0, None, False)
        band = CAUSAL if causal else (left, right)
        for there, grad in zip(
            (dq, dk, dv), reference(q, k, scale, band).backward(dout, q, k, v, out, lse), strict=True
        ):
            there.copy_(grad)
        return torch.empty(0)

    interface._flash_attn_forward, interface._flash_attn_backward = forward, backward
    package.flash_attn_interface = interface
    package.flash_attn_varlen_func = None

    def whole(q, k, v, dropout_p, softmax_scale, causal, window_size):
        return forward(q, k, v, dropout_p, softmax_scale, causal, *window_size, 0.0, None, False)[0]

    package.flash_attn_func = whole
    return {"flash_attn": package, "flash_attn.flash_attn_interface": interface}


def flash4_module() -> dict[str, ModuleType]:
    package, cute, interface = map(ModuleType, ("flash_attn", "flash_attn.cute", "flash_attn.cute.interface"))

    def window(causal, left, right):
        return CAUSAL if causal else (left, right)

    def forward(q, k, v, *, softmax_scale, causal, window_size_left, window_size_right, return_lse):
        assert return_lse
        halves = reference(q, k, softmax_scale, window(causal, window_size_left, window_size_right))
        out, lse = halves.forward(q, k, v)
        return out.contiguous(), lse, None, None, None

    def backward(
        q,
        k,
        v,
        out,
        dout,
        lse,
        *,
        softmax_scale,
        causal,
        window_size_left,
        window_size_right,
        dq=None,
        dk=None,
        dv=None,
    ):
        halves = reference(q, k, softmax_scale, window(causal, window_size_left, window_size_right))
        grads = halves.backward(dout, q, k, v, out, lse)
        into = (dq, dk, dv) if dq is not None else tuple(torch.empty_like(tensor) for tensor in (q, k, v))
        for there, grad in zip(into, grads, strict=True):
            there.copy_(grad)
        return into

    interface._flash_attn_fwd, interface._flash_attn_bwd = forward, backward
    cute.flash_attn_func = cute.flash_attn_varlen_func = None
    cute.interface, package.cute = interface, cute
    return {"flash_attn": package, "flash_attn.cute": cute, "flash_attn.cute.interface": interface}


class Flash2Here(Flash2):
    capabilities = split_capabilities = ANYWHERE


class Flash4Here(Flash4):
    capabilities = split_capabilities = ANYWHERE


def stand_in(monkeypatch, modules: dict[str, ModuleType]) -> None:
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 2, "mask": SlidingWindow(window=5)}, {"rope": 10000.0}])
@pytest.mark.parametrize(
    ("backend", "how"),
    [
        *product(("flash4", "naive+flash4", "flash4+naive"), ("eager", "compiled")),
        *product(("flash2+naive", "naive+flash2"), ("eager",)),  # the package makes operators of its own, for compilers
    ],
)
def test_a_layer_asks_the_packages_what_they_understand(monkeypatch, backend, how, options):
    stand_in(monkeypatch, flash2_module() if "flash2" in backend else flash4_module())
    here: dict[str, Backend] = {"flash2": Flash2Here(), "flash4": Flash4Here(), "naive": Naive()}
    halves = [here[name] for name in backend.split("+")]
    plain = Attention(48, 6, backend="naive", **options)
    layer = Attention(48, 6, backend=Paired(*halves) if halves[1:] else halves[0], **options)
    layer.load_state_dict(plain.state_dict())
    run = torch.compile(layer, fullgraph=True, backend="aot_eager") if how == "compiled" else layer
    x, cotangent = torch.randn(2, 19, 48, requires_grad=True), torch.randn(2, 19, 48)
    torch._dynamo.reset()
    for each in (run, run):
        leaves = [x, *layer.parameters()]
        out, expected = each(x), plain(x)
        torch.testing.assert_close(out, expected)
        grads = torch.autograd.grad(out, leaves, cotangent)
        torch.testing.assert_close(grads, torch.autograd.grad(expected, [x, *plain.parameters()], cotangent))
    with torch.no_grad():
        torch.testing.assert_close(run(x), plain(x))


def test_flash4s_operators_say_of_tensors_to_come_what_the_package_gives(monkeypatch):
    from attn_lab.backends.flash4 import _backward_op, _forward_op

    stand_in(monkeypatch, flash4_module())
    q, k, v = torch.randn(2, 19, 12, 8).split((4, 4, 4), dim=2)
    options = (0.3, True, None, None)
    out, lse = _forward_op(q, k, v, *options)
    torch.library.opcheck(_forward_op, (q, k, v, *options))
    torch.library.opcheck(_backward_op, (torch.randn_like(out), q, k, v, out, lse, *options))


@pytest.mark.parametrize("band", [CAUSAL, (4, 0)])
def test_flash3s_forward_takes_what_a_build_knows_and_nothing_else(monkeypatch, band):
    def forward(q, k, v, k_new, v_new, out, softmax_scale, causal, window_size=(-1, -1), softcap=0.0):
        assert k_new is v_new is out is None
        return reference(q, k, softmax_scale, CAUSAL if causal else window_size).forward(q, k, v)

    interface = ModuleType("flash_attn_interface")
    interface._flash_attn_forward = forward
    stand_in(monkeypatch, {"flash_attn_interface": interface})
    mask = Causal() if band == CAUSAL else SlidingWindow(window=5)
    shape = Shape(batch_size=2, seq_len=19, num_heads=4, num_kv_heads=2, emb_dim=32, dtype="float32")
    request = Request(shape=shape, mask=mask)
    q, k, v = torch.randn(2, 19, 4, 8), *torch.randn(2, 2, 19, 2, 8)
    halves, exact = (each.split(request, detect("cpu")) for each in (Flash3(), NaiveFP32()))
    torch.testing.assert_close(halves.forward(q, k, v), exact.forward(q, k, v))
    assert halves.backward is None
