"""attn-lab certify: what it finds of sound and of wrong backends, and what the layer makes of it."""

import subprocess
import sys
from dataclasses import replace

import pytest
from test_verification import WrongAt

from attn_lab.backends.flash4 import Flash4
from attn_lab.backends.sdpa_math import SdpaMath
from attn_lab.certify import walk as walking
from attn_lab.certify.grid import HEAD_DIMS, checks, kinds, sizes
from attn_lab.certify.walk import walk
from attn_lab.certify.worker import run
from attn_lab.core import certificate as certificates
from attn_lab.core.certificate import Certificate, Findings, Kind, certified_reasons, shipped
from attn_lab.core.machine import Machine, detect, software
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal

H100 = Machine(
    device="cuda", name="NVIDIA H100 80GB HBM3", memory=80 * 2**30, capability=(9, 0),
    packages={"flash-attn": "2.8.3", "flash-attn-4": "4.0.0b36"},
)  # fmt: skip


def outcome_of(backend, head_dims, masks=("full", "causal")):
    """As `walk`, in this process."""
    machine = detect("cpu")
    replies = [
        (kind, {"number": number}, run(backend, check, machine))
        for kind in kinds(backend, machine)
        if kind.head_dim in head_dims and kind.mask in masks and kind.dtype == "float32"
        for number, check in enumerate(checks(kind))
    ]
    return walking._outcome(backend, machine, replies)


def test_a_backend_that_is_wrong_at_one_head_size_is_found_there_alone():
    outcome = outcome_of(WrongAt((40,)), (32, 40))
    found = outcome.findings
    assert {(kind.head_dim, kind.gradients) for kind in found.incorrect} == {(40, True)}
    assert all("dq: max error" in reason for reason in found.incorrect.values())
    assert {(kind.head_dim, kind.gradients) for kind in found.verified} == {(32, True), (32, False), (40, False)}


def test_a_sound_backend_has_no_fault_and_unserved_lengths_are_unsupported_not_wrong():
    found = outcome_of(SdpaMath(), (8,), ("full", "causal", "band", "documents", "predicate"))
    assert found.findings.incorrect == {} and len(found.findings.verified) == 2 * (5 * 4 - 2)  # documents are square


def test_the_grid_of_a_backend_that_compiles_is_smaller_and_has_every_head_size_mask_and_dtype():
    found = list(kinds(Flash4(), H100))
    assert {kind.head_dim for kind in found} == set(HEAD_DIMS)
    assert {kind.mask for kind in found} == {"full", "causal", "band", "documents", "predicate"}
    assert {kind.dtype for kind in found} == {"float16", "bfloat16"}
    assert {kind.grouped for kind in found} == {kind.square for kind in found} == {True, False}
    assert len(found) < 0.4 * len(list(kinds(SdpaMath(), H100)))


@pytest.mark.parametrize("head_dim", HEAD_DIMS[:16])
def test_head_sizes_of_flash4_that_are_known_to_be_wrong_are_refused_with_a_backward(head_dim):
    """Rounded up to 16 an odd multiple of 16: 8, 16, 40, 48, 72, 80, 104, 112."""
    shape = Shape(batch_size=2, seq_len=300, num_heads=8, emb_dim=8 * head_dim, dtype="bfloat16")
    request = Request(shape=shape, mask=Causal())
    wrong = (-(-head_dim // 16)) % 2 == 1
    assert bool(Flash4().unsupported_reasons(request, H100)) == bool(Flash4().split_reasons(request, H100)) == wrong
    forward = replace(request, passes=("forward",))
    assert bool(Flash4().unsupported_reasons(forward, H100)) == (head_dim in (104, 112))


@pytest.mark.parametrize("about", ["gpu", "torch", "package"])
def test_what_a_certificate_found_incorrect_is_refused_on_that_gpu_with_those_versions_alone(about, monkeypatch):
    shape = Shape(batch_size=2, seq_len=300, num_heads=8, emb_dim=8 * 64, dtype="bfloat16")
    request = Request(shape=shape, mask=Causal())
    findings = Findings({"flash-attn-4": "4.0.0b36"}, incorrect={Kind.of(request): "dq: max error 1"})
    certificate = Certificate(H100.name, software(H100), {"flash4": findings})
    monkeypatch.setattr(certificates, "shipped", lambda: (certificate,))
    (reason,) = Flash4().unsupported_reasons(request, H100)
    assert "dq: max error 1" in reason and H100.name in reason
    others = {
        "gpu": (replace(H100, name="NVIDIA A100"), certificate),
        "torch": (H100, replace(certificate, versions={**certificate.versions, "torch": "1.0"})),
        "package": (replace(H100, packages={"flash-attn-4": "4.1"}), certificate),
    }
    machine, other = others[about]
    monkeypatch.setattr(certificates, "shipped", lambda: (other,))
    assert certified_reasons("flash4", request, machine) == []


def test_shipped_certificates_can_be_read_and_have_nothing_incorrect():
    for certificate in shipped():
        assert certificate.backends and certificate.made["commit"]
        for name, found in certificate.backends.items():
            assert found.verified and not found.incorrect, name


def test_a_worker_that_dies_costs_its_check_alone(monkeypatch):
    """The first worker is killed in the middle: its check is a finding, the walk goes on to the end."""
    started = []
    start = walking._start

    def first_is_killed(machine):
        process = start(machine)
        if not started:
            process.kill()
        started.append(process)
        return process

    monkeypatch.setattr(walking, "_start", first_is_killed)
    monkeypatch.setattr(walking, "sizes", lambda backend, machine: list(sizes(backend, machine))[:1])
    monkeypatch.setattr(walking, "kinds", lambda *args: list(kinds(*args))[:4])
    ((_, outcome),) = walk([SdpaMath()], detect("cpu"), workers=1)
    assert len(started) == 2
    (reason,) = {*outcome.findings.incorrect.values()}
    assert "ended its process with exit code -9" in reason
    assert outcome.sizes == {"2 query heads a key/value head": ""}


def test_the_command_prints_a_map_and_keeps_the_certificate(tmp_path):
    (tmp_path / "random.py").write_text("raise RuntimeError('a file of the user')")
    words = [
        "certify",
        "--backends",
        "sdpa_math",
        "--head-dims",
        "8",
        "--device",
        "cpu",
        "--workers",
        "2",
        "-o",
        "c.json",
    ]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.pop(0); from attn_lab.cli.main import main; main({words!r})"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "0 declared but incorrect" in done.stdout and "causal float32" in done.stdout
    assert Certificate.read(tmp_path / "c.json").backends["sdpa_math"].verified
