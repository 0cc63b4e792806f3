"""In other people's models on a GPU: what their own attention answers in float32, from kernels of half precision."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import attn_lab
from attn_lab.core.machine import detect
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.registry import backend_names

pytestmark = pytest.mark.gpu

BACKENDS = [*(name for name in backend_names() if name != "paired"), "sdpa_cudnn+flash4", "flash2+sdpa_cudnn"]
LENGTHS = torch.tensor([96, 61, 17])
RIGHT = (torch.arange(96) < LENGTHS[:, None]).long()
PADDINGS = {"none": None, "right": RIGHT, "left": RIGHT.flip(1)}


def served(name: str):
    """The backend, or a skip with all it lacks here."""
    (backend,) = backends_named(name)
    reasons = backend.machine_reasons(detect("cuda"))
    if reasons or "flash3" in name:
        pytest.skip("; ".join(reasons) or "flash3's builds have no backward")
    return backend


def near(ours: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor, what: str) -> None:
    """Within three times what half precision costs the model's own attention, and a thousandth of the largest."""
    error, cost = ((each.float() - exact).abs().max() for each in (ours, plain))
    allowed = 3 * cost + 1e-3 * exact.abs().max()
    assert error <= allowed, f"{what}: max error {error:.3g}; allowed {allowed:.3g}"


def decoder(family: str, implementation: str, dtype: torch.dtype) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if family == "gpt2":
        config = GPT2Config(vocab_size=199, n_embd=256, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0.0,
                            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)  # fmt: skip
        kind = GPT2LMHeadModel
    else:
        config = LlamaConfig(vocab_size=199, hidden_size=256, intermediate_size=384, num_hidden_layers=2,
                             num_attention_heads=4, num_key_value_heads={"llama": 4, "grouped": 1}[family],
                             max_position_embeddings=128)  # fmt: skip
        kind = LlamaForCausalLM
    torch.manual_seed(0)
    model = kind(config)
    model.set_attn_implementation(implementation)
    return model.to("cuda", torch.bfloat16).to(dtype)  # the same weights, in bfloat16's steps


@pytest.mark.parametrize("padding", list(PADDINGS))
@pytest.mark.parametrize("family", ["llama", "grouped", "gpt2"])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_language_model_answers_and_learns_as_with_its_own_attention(name, family, padding):
    from attn_lab.core.errors import Unsupported
    from attn_lab.integrations.transformers import register_as

    register_as("lab_of_this_test", served(name))
    tokens = torch.randint(199, (3, 96), generator=torch.Generator().manual_seed(1)).cuda()
    seen = None if PADDINGS[padding] is None else PADDINGS[padding].cuda()
    real = torch.ones_like(tokens, dtype=torch.bool) if seen is None else seen.bool()
    told = []
    for implementation in ("lab_of_this_test", "eager", "eager in float32"):
        name, _, exactly = implementation.partition(" in ")
        model = decoder(family, name, torch.float32 if exactly else torch.bfloat16).train()
        try:
            logits = model(tokens, attention_mask=seen).logits[real]
        except Unsupported as refused:
            pytest.skip(str(refused))
        nn.functional.cross_entropy(logits.float(), tokens[real]).backward()
        with torch.no_grad():
            answer = model.eval()(tokens, attention_mask=seen).logits[real]
        gradients = {parameter: tensor.grad for parameter, tensor in model.named_parameters()}
        told.append({"in training": logits, "in eval": answer, **gradients})
    for what in told[0]:
        near(*(each[what] for each in told), what)


@pytest.mark.parametrize("name", BACKENDS)
def test_an_encoder_of_torchs_answers_and_learns_by_its_kernels(name):
    backend = served(name)
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(256, 4, 384, dropout=0.0, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).to("cuda", torch.bfloat16)
    ours = attn_lab.convert(copy.deepcopy(theirs), backend=backend)
    models = [ours, theirs, copy.deepcopy(theirs).float()]
    x, cotangent = (torch.randn(3, 96, 256, device="cuda", dtype=torch.bfloat16) for _ in "xc")
    outs = [model(x.to(model.layers[0].norm1.weight.dtype)) for model in models]
    near(*outs, "in training")
    for out in outs:
        out.backward(cotangent.to(out.dtype))
    for (parameter, one), *others in zip(ours.named_parameters(), *(each.parameters() for each in models[1:]),
                                         strict=True):  # fmt: skip
        near(one.grad, *(each.grad for each in others), parameter)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CUDA]) as profiler:
        near(ours.eval()(x), outs[1], outs[2], "in eval")
        torch.cuda.synchronize()
    whose = backend.parts if name == "auto" else (backend,)  # one of all that it may choose
    kernels = [each.kernels["forward"] for each in whose if "forward" in each.kernels]
    assert any(re.search(kernel, event.name) for kernel in kernels for event in profiler.events())
