"""In other people's models on a GPU: what their own attention answers in float32, from kernels of half precision."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import attn_lab
from attn_lab.core.machine import detect
from attn_lab.layer.names import backend_names, backends_named

pytestmark = pytest.mark.gpu

BACKENDS = [*(name for name in backend_names() if name != "paired"), "sdpa_cudnn+flash4", "flash2+sdpa_cudnn"]
LENGTHS = torch.tensor([96, 61, 17])
RIGHT = (torch.arange(96) < LENGTHS[:, None]).long()
PADDINGS = {"none": None, "right": RIGHT, "left": RIGHT.flip(1)}


def served(name: str):
    """The backend, or a skip with all it lacks here."""
    (backend,) = backends_named(name)
    reasons = backend.machine_refusals(detect("cuda"))
    if reasons or "flash3" in name:
        pytest.skip("; ".join(reasons) or "flash3's builds have no backward")
    return backend


def near(ours: torch.Tensor, exact: torch.Tensor, what: str = "") -> None:
    """Within 3 % of the largest: some three times what bfloat16 itself costs such a model."""
    error = (ours.float() - exact.float()).abs().max() / exact.abs().max().clamp_min(1e-30)
    assert error < 0.03, f"{what}: {error:.3f} of the largest"


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
    from attn_lab.core.errors import Refused
    from attn_lab.integrations.transformers import register_as

    register_as("lab_of_this_test", served(name))
    tokens = torch.randint(199, (3, 96), generator=torch.Generator().manual_seed(1)).cuda()
    seen = None if PADDINGS[padding] is None else PADDINGS[padding].cuda()
    real = torch.ones_like(tokens, dtype=torch.bool) if seen is None else seen.bool()
    told = []
    for implementation, dtype in (("eager", torch.float32), ("lab_of_this_test", torch.bfloat16)):
        model = decoder(family, implementation, dtype).train()
        try:
            logits = model(tokens, attention_mask=seen).logits[real]
        except Refused as refused:
            pytest.skip(str(refused))
        nn.functional.cross_entropy(logits.float(), tokens[real]).backward()
        gradients = {parameter: tensor.grad for parameter, tensor in model.named_parameters()}
        with torch.no_grad():
            answer = model.eval()(tokens, attention_mask=seen).logits[real]
        told.append((logits, answer, gradients))
    (logits, answer, gradients), (our_logits, our_answer, our_gradients) = told
    near(our_logits, logits, "in training")
    near(our_answer, answer, "in eval")
    for parameter, gradient in gradients.items():
        if "k_proj.bias" not in parameter:
            near(our_gradients[parameter], gradient, parameter)


@pytest.mark.parametrize("name", BACKENDS)
def test_an_encoder_of_torchs_answers_and_learns_by_its_kernels(name):
    backend = served(name)
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(256, 4, 384, dropout=0.0, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).to("cuda", torch.bfloat16)
    ours = attn_lab.convert(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), backend=backend)
    ours.to("cuda", torch.bfloat16).load_state_dict(theirs.state_dict())
    theirs.float()
    x = torch.randn(3, 96, 256, device="cuda", dtype=torch.bfloat16)
    outs = [ours(x), theirs(x.float())]
    near(*outs)
    for out in outs:
        out.float().square().mean().backward()
    for (parameter, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        near(one.grad, other.grad, parameter)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CUDA]) as profiler:
        near(ours.eval()(x), theirs.eval()(x.float()), "in eval")
        torch.cuda.synchronize()
    import re

    assert any(re.search(backend.kernels["forward"], event.name) for event in profiler.events())
