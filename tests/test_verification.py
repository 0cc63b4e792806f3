"""What a model relies on is verified: wrong kinds are refused, once and for all, whoever asks; sound ones never."""

import json
import logging
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch

from attn_lab import Attention
from attn_lab.backends.naive import Naive
from attn_lab.backends.naive_fp32 import NaiveFP32
from attn_lab.backends.sdpa_flash import SdpaFlash
from attn_lab.backends.sdpa_math import SdpaMath
from attn_lab.core.backend import Backend
from attn_lab.core.certificate import Certificate, Findings, Kind
from attn_lab.core.errors import BadRequest, Incorrect, Unsupported
from attn_lab.core.machine import detect
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.masks.document import Document
from attn_lab.masks.full import Full
from attn_lab.masks.prefix_lm import PrefixLM
from attn_lab.masks.sliding_window import SlidingWindow
from attn_lab.nn.small_case import small_case_errors, small_request
from attn_lab.nn.verification import verified_reasons

CALLS = []


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q):
        return q.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.roll(grad, 1, -1)


@dataclass(frozen=True)
class WrongAt(Backend):
    """Sound, but for the gradient of q at these head sizes: as flash-attn-4 4.0.0b36 is."""

    head_dims: tuple[int, ...] = (40,)
    capabilities = SdpaFlash.capabilities
    kernels = SdpaFlash.kernels

    def prepare(self, request, machine):
        attend = SdpaFlash().prepare(request, machine)
        if request.shape.head_dim not in self.head_dims:
            return attend
        return lambda q, k, v: attend(_WrongGradient.apply(q), k, v)


def layer(backend, head_dim, **more):
    return Attention(head_dim * 4, 4, num_kv_heads=2, backend=backend, head_dim=head_dim, **more)


def test_a_gradient_that_is_wrong_at_one_head_size_is_refused_there_and_nowhere_else():
    x = torch.randn(1, 20, 160)
    with pytest.raises(Unsupported, match=r"WrongAt|test_verification.*dq: max error .*; allowed"):
        layer(WrongAt(), 40)(x)
    with torch.no_grad():
        layer(WrongAt(), 40)(x)  # its output is right
    layer(WrongAt(), 32)(torch.randn(1, 20, 128)).sum().backward()


def test_a_preference_list_goes_on_past_a_wrong_backend_and_keeps_the_reason():
    chosen = layer([WrongAt(), "sdpa_flash"], 40)
    chosen(torch.randn(1, 20, 160))
    assert isinstance(chosen.backend, SdpaFlash)
    (reasons,) = chosen.choices[-1].passed_over.values()
    assert "dq: max error" in reasons[0]


def test_the_same_kind_is_verified_once(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("attn_lab"), "disabled", False)  # as Hydra leaves it in this process
    caplog.set_level(logging.INFO, "attn_lab")
    backend = WrongAt((7,))
    for seq in (20, 21, 400):
        layer(backend, 56)(torch.randn(1, seq, 224))
    assert sum("verified at head_dim 56" in each.message for each in caplog.records) == 1


@pytest.mark.parametrize("how", ["keyword", "environment"])
def test_verification_can_be_turned_off(how, monkeypatch):
    more = {}
    if how == "environment":
        monkeypatch.setenv("ATTN_LAB_VERIFY", "off")
    else:
        more = {"verify": False}
    layer(WrongAt((72,)), 72, **more)(torch.randn(1, 20, 288))


def test_another_process_finds_what_was_verified(tmp_path, monkeypatch):
    code = (
        "import logging, torch; logging.basicConfig(level=logging.INFO)\n"
        "from attn_lab import Attention\n"
        "Attention(96, 4, backend='sdpa_math')(torch.randn(1, 9, 96)).sum().backward()"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)
    )
    assert "verified at head_dim 24" in first.stderr and "verified" not in second.stderr
    (file,) = tmp_path.glob("attn_lab/verified-*.json")
    assert json.loads(file.read_text())["backends"]["sdpa_math"]["verified"]


@pytest.mark.parametrize("spoilt", ["", "[" * 10**5, "{}", '{"schema": 1}', "null", "\x00"])
def test_a_spoilt_cache_is_reported_and_made_anew(tmp_path, monkeypatch, spoilt):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x = torch.randn(1, 9, 96)
    Attention(96, 4, backend="sdpa_math")(x)
    (file,) = tmp_path.glob("attn_lab/verified-*.json")
    file.write_text(spoilt)
    with pytest.raises(BadRequest, match="certificate"):
        Certificate.read(file)
    monkeypatch.setattr("attn_lab.nn.verification._FOUND", {})
    with pytest.warns(UserWarning, match="certificate"):
        Attention(96, 4, backend="sdpa_math")(x)
    assert Certificate.read(file).backends["sdpa_math"].verified


def test_a_certificate_is_the_same_when_it_is_read_again(tmp_path):
    kinds = [
        Kind(d, "bfloat16", m, g, True, b) for d in (8, 64) for m in ("full", "causal") for g in (0, 1) for b in (0, 1)
    ]
    kinds = [replace(each, grouped=bool(each.grouped), gradients=bool(each.gradients)) for each in kinds]
    found = Findings({"flash-attn-4": "1"}, frozenset(kinds[2:]), {kinds[0]: "dq: max error 1", kinds[1]: "dk"})
    certificate = Certificate("A GPU", {"torch": "2"}, {"flash4": found})
    certificate.write(tmp_path / "one.json")
    again = Certificate.read(tmp_path / "one.json")
    assert (again.gpu, again.backends) == (certificate.gpu, certificate.backends)
    assert again.text == certificate.text


MASKS = [Full(), Causal(), SlidingWindow(5), Document((3, 9)), PrefixLM(4)]


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: type(mask).__name__)
@pytest.mark.parametrize("sizes", [(20, 20, 1), (5, 20, 1), (20, 20, 4)])
def test_a_small_case_is_of_the_same_kind_as_the_request(mask, sizes):
    seq_len, seq_len_kv, group = sizes
    shape = Shape(batch_size=3, seq_len=seq_len, seq_len_kv=seq_len_kv, num_heads=8, num_kv_heads=8 // group,
                  emb_dim=8 * 24, dtype="float32")  # fmt: skip
    request = Request(shape=shape, mask=mask, dropout=0.1)
    assert Kind.of(small_request(request)) == Kind.of(request)
    assert small_request(request).dropout == 0


@pytest.mark.parametrize(
    "backend", [Naive(), NaiveFP32(), SdpaMath(), SdpaFlash()], ids=lambda each: type(each).__name__
)
@pytest.mark.parametrize("seq_len", [1, 2, 3, 16])
def test_no_sound_backend_is_called_wrong_by_chance(backend, seq_len):
    """A gate that is met by chance stops one long sweep in three: 240 draws of few positions, none above the bound."""
    machine, worst = detect("cpu"), 0.0
    for batch in range(1, 61):
        shape = Shape(batch_size=batch % 7 + 1, seq_len=seq_len, num_heads=4, emb_dim=64, dtype="float32")
        for mask in (Full(), Causal()):
            for num_kv_heads in (4, 2):
                request = Request(shape=replace(shape, num_kv_heads=num_kv_heads), mask=mask)
                errors = small_case_errors(backend, request, machine, seed=batch)
                worst = max(worst, *(error / allowed for error, allowed in errors.values()))
    assert worst <= 1


@pytest.mark.parametrize("name", ["naive", "naive_fp32"])
def test_scores_past_float16_are_an_error_and_not_nan(name):
    x = torch.full((1, 8, 64), 1.0, dtype=torch.float16)
    one = Attention(64, 1, backend=name, mask="full", verify=False).half()
    with torch.no_grad():
        one.qkv.weight.fill_(100 / 64)  # q = k = v = 100: scores of 80000
        with pytest.raises(Incorrect, match=r"65504.*sdpa_math"):
            one(x)
        one.backend = "sdpa_math"
        assert one(x).isfinite().all()


@pytest.mark.parametrize(
    "error", [ImportError("x.so: undefined symbol: _Z"), OSError("libcudart.so.12"), RuntimeError("CUDA 11")]
)
def test_a_package_that_does_not_load_is_a_reason(error, monkeypatch, tmp_path):
    """flash-attn is installed and its library does not load: the layer takes the next, and doctor has the reason."""
    from attn_lab.backends.flash2 import Flash2
    from attn_lab.core.backend import select

    package = tmp_path / "flash_attn"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise {error!r}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    request = Request(shape=Shape(batch_size=1, seq_len=8, num_heads=1, emb_dim=64), mask=Causal())
    with pytest.raises(Unsupported, match="flash-attn is installed, but does not load: .*" + str(error).split()[0]):
        select(Flash2(), request, detect("cpu"))


def test_every_kind_is_looked_up_by_what_covers_it():
    request = Request(shape=Shape(batch_size=1, seq_len=8, num_heads=1, emb_dim=48, dtype="float32"), mask=Causal())
    backend = WrongAt((48,))
    assert verified_reasons(backend, request, detect("cpu"))
    assert verified_reasons(backend, replace(request, passes=("forward",)), detect("cpu")) == []
