"""On a GPU: a layer is right or refuses at every head size, and what verifies it costs little, once."""

import logging
import os
import re
import subprocess
import sys

import pytest
import torch

from attn_lab import Attention
from attn_lab.certify.command import is_wrong
from attn_lab.certify.walk import walk
from attn_lab.core.backend import backend_name
from attn_lab.core.certificate import shipped
from attn_lab.core.errors import Unsupported
from attn_lab.core.machine import detect
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.registry import AUTO, backend_names

pytestmark = pytest.mark.gpu
HEAD_DIMS = tuple(range(8, 257, 8))
IN_MODELS = ("auto", "flash4", "sdpa_cudnn+flash4", "flash2", "sdpa_cudnn", "flex")
PAIR = "sdpa_cudnn+flash4"


def skip_unless_here(name: str) -> None:
    if name != AUTO and (reasons := backends_named(name)[0].machine_reasons(detect("cuda"))):
        pytest.skip("; ".join(reasons))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("name", IN_MODELS)
def test_a_layer_is_right_or_refuses_at_every_head_size(name, head_dim):
    """Output and the gradient of the packed projection, in bfloat16, against the same layer in float32."""
    skip_unless_here(name)
    served = 0
    for mask in ("full", "causal"):
        for num_kv_heads in (8, 2):
            torch.manual_seed(0)
            layer = Attention(8 * head_dim, 8, num_kv_heads, backend=name, mask=mask).cuda()
            exact = Attention(8 * head_dim, 8, num_kv_heads, backend="sdpa_math", mask=mask, verify=False).cuda()
            exact.load_state_dict(layer.bfloat16().state_dict())
            x = torch.randn(2, 300, 8 * head_dim, device="cuda", dtype=torch.bfloat16)
            try:
                out = layer(x)
            except Unsupported:
                continue
            served += 1
            cotangent = torch.randn_like(out)
            (got,) = torch.autograd.grad(out, [layer.qkv.weight], cotangent)
            reference = exact.float()(x.float())
            (expected,) = torch.autograd.grad(reference, [exact.qkv.weight], cotangent.float())
            width = 8 * head_dim
            parts = [slice(0, width), slice(width, None)]  # the query's weights; those of keys and values
            errors = [_off(got[part].float(), expected[part]) for part in parts] + [_off(out.float(), reference)]
            assert max(errors) < 0.03, (mask, num_kv_heads, errors, layer.choices)
    assert served or name != AUTO


def _off(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", [*(each for each in backend_names() if each != AUTO), PAIR])
def test_nothing_that_is_declared_is_wrong(name):
    """The walk of `attn-lab certify`, at every fourth head size."""
    skip_unless_here(name)
    backend = backends_named(name)[0]
    ((_, outcome),) = walk([backend], detect("cuda"), head_dims=HEAD_DIMS[::4], workers=min(8, os.cpu_count() or 1))
    assert outcome.findings.incorrect == {}
    assert [verdict for verdict in outcome.sizes.values() if is_wrong(verdict)] == []
    assert outcome.findings.verified


def test_the_shipped_certificate_has_nothing_that_is_declared_and_wrong():
    machine = detect("cuda")
    certificates = [each for each in shipped() if each.holds_for(machine)]
    if not certificates:
        pytest.skip(f"no certificate for {machine.name} with these versions")
    for name, found in certificates[0].backends.items():
        assert found.incorrect == {}, name


FIRST_USE = """
import logging, sys, time, torch
logging.basicConfig(level=logging.INFO)
from attn_lab import Attention
from attn_lab.core import certificate
certificate.shipped = lambda: ()
import attn_lab.nn.verification as verification
verification.shipped = lambda: ()
layer = Attention(1024, 16, 4, backend=sys.argv[1]).to("cuda", torch.bfloat16)
torch.randn(64, 64, device="cuda", dtype=torch.float64) @ torch.randn(64, 64, device="cuda", dtype=torch.float64)
for seq in (128, 256, 384):
    layer(torch.randn(2, seq, 1024, device="cuda", dtype=torch.bfloat16)).sum().backward()
"""


@pytest.mark.parametrize("name", ["flash2", "sdpa_cudnn", "sdpa_flash", "sdpa_math"])
def test_verification_takes_a_moment_once(name, tmp_path):
    """One line of log in the first process, none in the second."""
    skip_unless_here(name)
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", FIRST_USE, name], capture_output=True, text=True, check=True,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        )  # fmt: skip
        said.append(re.findall(r"verified at .* in (\d+) ms", done.stderr))
    assert len(said[0]) == 1 and said[1] == []
    logging.getLogger(__name__).warning("%s: verified in %s ms", backend_name(backends_named(name)[0]), said[0][0])
