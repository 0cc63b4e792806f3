"""In other people's models: the answers and gradients of the model's own attention, whoever computes them."""

import copy
import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import nn

import attn_lab
from attn_lab.backends.naive import Naive
from attn_lab.core.errors import BadRequest, Unsupported

close = torch.testing.assert_close
CPU_BACKENDS = ("naive", "naive_fp32", "sdpa_math", "sdpa_flash")


class Counting(Naive):
    """The naive backend, and how often it was run."""

    def __init__(self):
        object.__setattr__(self, "runs", [])

    def prepare(self, request, machine):
        attend = super().prepare(request, machine)

        def counted(q, k, v):
            self.runs.append(request)
            return attend(q, k, v)

        return counted


# --- torch.nn.MultiheadAttention and what holds it


def pair(module, backend="sdpa_flash"):
    """The module as it was, and its converted copy."""
    return module, attn_lab.convert(copy.deepcopy(module), backend=backend, verify=not isinstance(backend, Counting))


def same_with_gradients(theirs, ours, x):
    """Outputs, the input's gradient, and every parameter's."""
    outs = [model(x) for model in (theirs, ours)]
    close(outs[1], outs[0], atol=1e-5, rtol=1e-4)
    cotangent = torch.randn_like(outs[0])
    expected, got = (torch.autograd.grad(out, [x, *model.parameters()], cotangent)
                     for out, model in zip(outs, (theirs, ours), strict=True))  # fmt: skip
    for one, other in zip(got, expected, strict=True):
        close(one, other, atol=1e-4, rtol=1e-3)


PADDED = torch.arange(9) >= torch.tensor([[9], [6], [1]])  # True = not a token: on the right
LOOK_AHEAD = torch.ones(9, 9, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"key_padding_mask": PADDED},
        {"attn_mask": LOOK_AHEAD},
        {"attn_mask": LOOK_AHEAD, "is_causal": True},
        {"attn_mask": LOOK_AHEAD, "key_padding_mask": PADDED, "is_causal": True},
        {"attn_mask": torch.zeros(9, 9).masked_fill(LOOK_AHEAD, float("-inf"))},
        {"attn_mask": LOOK_AHEAD.expand(12, 9, 9)},
    ],
    ids=lambda masks: "+".join(masks) or "none",
)
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention_is_itself_under_every_mask(backend, masks, batch_first):
    theirs, ours = pair(nn.MultiheadAttention(32, 4, batch_first=batch_first), backend)

    def over(mha):
        return lambda x: mha(x, x, x, need_weights=False, **masks)[0]

    x = torch.randn((3, 9, 32) if batch_first else (9, 3, 32))
    close(over(ours)(x), over(theirs)(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_multihead_cross_attention_and_a_lone_sequence_are_the_same(bias):
    theirs, ours = pair(nn.MultiheadAttention(32, 4, bias=bias, batch_first=True))
    q, kv = torch.randn(3, 5, 32, requires_grad=True), torch.randn(3, 9, 32, requires_grad=True)
    for options in ({}, {"key_padding_mask": PADDED}):
        outs = [mha(q, kv, kv, need_weights=False, **options)[0] for mha in (theirs, ours)]
        close(outs[1], outs[0], atol=1e-5, rtol=1e-4)
        for one, other in zip(*(torch.autograd.grad(out.square().sum(), [q, kv]) for out in outs), strict=True):
            close(one, other, atol=1e-4, rtol=1e-3)
    close(ours(q[0], kv[0], kv[0], need_weights=False)[0], theirs(q[0], kv[0], kv[0], need_weights=False)[0])


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("mode", ["train", "eval", "eval without gradients"])
@pytest.mark.parametrize("padded", [True, False])
def test_an_encoder_is_itself_in_every_mode_and_its_fast_path_does_not_go_round_the_backend(norm_first, mode, padded):
    made = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(made, 2, enable_nested_tensor=not norm_first)
    counting = Counting()
    theirs, ours = pair(model.train(mode == "train"), counting)
    mask = PADDED if padded else None

    def real(model):
        return lambda x: model(x, src_key_padding_mask=mask)[~PADDED]

    x = torch.randn(3, 9, 32, requires_grad=True)
    if mode == "eval without gradients":
        with torch.no_grad():
            close(real(ours)(x), real(theirs)(x), atol=1e-5, rtol=1e-4)
    else:
        outs = [real(each)(x) for each in (theirs, ours)]
        close(outs[1], outs[0], atol=1e-5, rtol=1e-4)
        gradients = [torch.autograd.grad(out.square().sum(), [x, *each.parameters()])
                     for out, each in zip(outs, (theirs, ours), strict=True)]  # fmt: skip
        for one, other in zip(*gradients, strict=True):
            close(one, other, atol=1e-4, rtol=1e-3)
    assert len(counting.runs) == 2
    assert counting.runs[0] is counting.runs[1]  # prepared once for both layers


def test_an_encoder_layer_alone_does_not_go_round_the_backend():
    counting = Counting()
    theirs, ours = pair(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval(), counting)
    x = torch.randn(2, 7, 32)
    with torch.inference_mode():
        close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)
    assert len(counting.runs) == 1


def test_a_whole_transformer_decodes_the_same():
    model = nn.Transformer(32, 4, 2, 2, 64, dropout=0.0, batch_first=True)
    theirs, ours = pair(model)
    source, target = torch.randn(3, 9, 32), torch.randn(3, 5, 32)
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    options = {"tgt_mask": causal, "tgt_is_causal": True, "memory_key_padding_mask": PADDED.float() * -1e38 * 3}
    close(ours(source, target, **options), theirs(source, target, **options), atol=1e-4, rtol=1e-3)
    with torch.inference_mode():
        inside = {"tgt_mask": causal.clone(), "memory_key_padding_mask": PADDED.clone()}
        close(ours(source, target, **inside), theirs(source, target, **inside), atol=1e-4, rtol=1e-3)


def test_a_compiled_module_is_one_graph_without_a_mask_of_the_calls_and_right_with_one():
    theirs, ours = pair(nn.MultiheadAttention(32, 4, batch_first=True))
    x = torch.randn(3, 9, 32)
    for options in ({}, {"attn_mask": LOOK_AHEAD, "is_causal": True}, {"key_padding_mask": PADDED}):
        torch._dynamo.reset()
        compiled = torch.compile(ours, fullgraph="key_padding_mask" not in options, backend="eager")
        got, expected = (mha(x, x, x, need_weights=False, **options)[0] for mha in (compiled, theirs))
        close(got, expected, atol=1e-5, rtol=1e-4)


def test_weights_keep_their_names_and_stay_the_same_objects():
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    before = dict(model.named_parameters())
    attn_lab.convert(model, backend=["flash2", "naive"])
    after = dict(model.named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)


def test_dropout_is_the_modules_own_and_a_backend_without_refuses_it():
    model = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
    attn_lab.convert(model, backend="sdpa_flash")
    with pytest.raises(Unsupported, match=r"dropout: none; asked 0.1"):
        model(torch.randn(1, 3, 32))
    model.eval()(torch.randn(1, 3, 32))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"need_weights": True}, "need_weights: expected False"),
        ({"is_causal": True}, "expected attn_mask with it"),
        ({"attn_mask": torch.full((9, 9), 0.5)}, "only 0 and -inf"),
    ],
)
def test_what_no_kernel_gives_is_refused(change, told):
    ours = attn_lab.convert(nn.MultiheadAttention(32, 4, batch_first=True), backend="naive")
    x = torch.randn(3, 9, 32)
    with pytest.raises(BadRequest, match=told):
        ours(x, x, x, **({"need_weights": False} | change))


def test_a_query_that_may_see_nothing_is_refused_rather_than_nan():
    ours = attn_lab.convert(nn.MultiheadAttention(32, 4, batch_first=True), backend="naive")
    x = torch.randn(1, 4, 32)
    with pytest.raises(Unsupported, match="may attend to no key"):
        ours(x, x, x, key_padding_mask=torch.ones(1, 4, dtype=torch.bool), need_weights=False)


def test_nothing_to_convert_or_something_unserved_is_said_and_nothing_is_changed():
    with pytest.raises(BadRequest, match=r"nn\.MultiheadAttention in it; got Linear without"):
        attn_lab.convert(nn.Linear(2, 2), backend="naive")
    model = nn.ModuleList([nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2, kdim=4, add_zero_attn=True)])
    with pytest.raises(BadRequest, match="with kdim or vdim, add_zero_attn"):
        attn_lab.convert(model, backend="naive")
    assert all(type(each) is nn.MultiheadAttention and not each._forward_pre_hooks for each in model)

    class Theirs(nn.MultiheadAttention):
        def forward(self, *inputs, **others):
            return super().forward(*inputs, **others)

    with pytest.raises(BadRequest, match="1 is a Theirs, which has a forward of its own"):
        attn_lab.convert(nn.ModuleList([nn.MultiheadAttention(8, 2), Theirs(8, 2)]), backend="naive")


@pytest.mark.parametrize(
    ("keys", "values", "masks", "told"),
    [
        ((1, 9), (1, 9), {}, r"key: expected \(2, any, 32\) as the query; got \(1, 9, 32\)"),
        ((2, 9), (2, 8), {}, r"value: expected the key's \(2, 9, 32\); got \(2, 8, 32\)"),
        ((2, 9), (2, 9), {"key_padding_mask": torch.zeros(2, 8)}, r"key_padding_mask: expected \(2, 9\); got \(2, 8\)"),
        ((2, 9), (2, 9), {"attn_mask": torch.zeros(1, 9)}, r"expected \(7, 9\) or \(8, 7, 9\); got \(1, 9\)"),
        ((2, 9), (2, 9), {"attn_mask": torch.zeros(4, 7, 9)}, r"attn_mask: expected \(7, 9\) or"),
        ((2, 9), (2, 9), {"attn_mask": torch.zeros(7, 9).byte()}, r"expected bool or floating.*got torch\.uint8"),
    ],
)
def test_inputs_that_contradict_each_other_are_refused_rather_than_read_past_their_end(keys, values, masks, told):
    ours = attn_lab.convert(nn.MultiheadAttention(32, 4, batch_first=True), backend="sdpa_flash")
    query, key, value = (torch.randn(*size, 32) for size in ((2, 7), keys, values))
    with pytest.raises(BadRequest, match=told):
        ours(query, key, value, need_weights=False, **masks)


def test_a_converted_module_keeps_its_hooks_and_can_be_converted_again():
    seen, x = [], torch.randn(2, 5, 32)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    handle = theirs.register_forward_hook(lambda *_: seen.append("called"))
    expected, _ = theirs(x, x, x)
    first = attn_lab.convert(theirs, backend="naive")
    again = attn_lab.convert(first, backend=(counting := Counting()), verify=False)
    close(first(x, x, x, need_weights=False)[0], expected)
    close(again(x, x, x, need_weights=False)[0], expected)
    assert seen == ["called"] * 3 and len(counting.runs) == 1
    handle.remove()
    again(x, x, x, need_weights=False)
    assert len(seen) == 3


def test_a_mask_written_over_behind_torchs_back_is_read_again():
    ours = attn_lab.convert(nn.MultiheadAttention(32, 4, batch_first=True), backend="naive")
    x, padding = torch.randn(2, 5, 32), torch.zeros(2, 5, dtype=torch.bool)
    ours(x, x, x, key_padding_mask=padding, need_weights=False)
    padding.numpy()[0, 3:] = True
    close(ours(x, x, x, key_padding_mask=padding, need_weights=False)[0],
          ours(x, x, x, key_padding_mask=padding.clone(), need_weights=False)[0])  # fmt: skip


# --- transformers


@pytest.fixture(scope="module")
def implementations():
    from attn_lab.integrations.transformers import register

    return register()


def llama(implementation, **options):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
    config = LlamaConfig(**(sizes | options), attn_implementation=implementation)
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def gpt2(implementation, **options):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0,
                        attn_pdrop=0.0, scale_attn_by_inverse_layer_idx=True, bos_token_id=0, eos_token_id=0,
                        attn_implementation=implementation, **options)  # fmt: skip
    torch.manual_seed(0)
    return GPT2LMHeadModel(config)


def mistral(implementation, **options):
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, sliding_window=4,
                           num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                           attn_implementation=implementation, **options)  # fmt: skip
    torch.manual_seed(0)
    return MistralForCausalLM(config)


TOKENS = torch.arange(27).view(3, 9) * 7 % 50
RIGHT = (torch.arange(9) < torch.tensor([[9], [6], [1]])).long()
PADDINGS = {"none": None, "right": RIGHT, "left": RIGHT.flip(1), "holes": RIGHT.roll(2, 1)}


@pytest.mark.parametrize("padding", list(PADDINGS))
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("family", [llama, gpt2, mistral])
@pytest.mark.parametrize("training", [True, False])
def test_a_language_model_answers_as_its_own_attention_does(implementations, family, backend, padding, training):
    theirs, ours = (family(name).train(training) for name in ("eager", implementations[backend]))
    seen = PADDINGS[padding]
    real = torch.ones_like(TOKENS, dtype=torch.bool) if seen is None else seen.bool()
    outs = [model(TOKENS, attention_mask=seen).logits for model in (theirs, ours)]
    close(outs[1], outs[0], atol=1e-5, rtol=1e-4)  # at padded positions too
    outs = [out[real] for out in outs]
    losses = [nn.functional.cross_entropy(out, TOKENS[real]) for out in outs]
    for (name, one), other in zip(
        [(name, each.grad) for loss, model in [(losses[0], theirs)] if loss.backward() is None
         for name, each in model.named_parameters()],
        [each.grad for loss, model in [(losses[1], ours)] if loss.backward() is None for each in model.parameters()],
        strict=True,
    ):  # fmt: skip
        close(other, one, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("family", [llama, gpt2, mistral])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_it_generates_the_same_tokens(implementations, family, padding, cache):
    seen = PADDINGS[padding]
    said = [family(name).eval().generate(
        TOKENS, attention_mask=torch.ones_like(TOKENS) if seen is None else seen, max_new_tokens=6, do_sample=False,
        pad_token_id=0, cache_implementation=cache, disable_compile=True,
    ) for name in ("eager", implementations["sdpa_flash"])]  # fmt: skip
    assert said[0].tolist() == said[1].tolist()


def test_a_compiled_model_is_one_graph_as_long_as_transformers_makes_no_mask(implementations):
    ours, theirs = (llama(name, num_hidden_layers=1).eval() for name in (implementations["sdpa_flash"], "eager"))
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    with torch.no_grad():
        for tokens in (TOKENS, TOKENS[:, :7]):
            close(compiled(tokens, use_cache=True).logits, theirs(tokens).logits, atol=1e-5, rtol=1e-4)


def test_a_function_prepared_serves_the_model_it_was_given_to_alone_and_has_the_mask_for_itself():
    from attn_lab.core.machine import detect
    from attn_lab.core.request import Request
    from attn_lab.core.shape import Shape
    from attn_lab.integrations.transformers import use
    from attn_lab.masks.causal import Causal
    from attn_lab.masks.full import Full

    shape = Shape(batch_size=3, seq_len=9, num_heads=4, num_kv_heads=2, emb_dim=32, dtype="float32")
    causal, full = (Naive().prepare(Request(shape=shape, mask=mask), detect("cpu")) for mask in (Causal(), Full()))
    theirs, ours, another = (llama("eager").eval() for _ in "toa")
    use(ours, causal)
    use(another, full)
    close(ours(TOKENS).logits, theirs(TOKENS).logits, atol=1e-5, rtol=1e-4)
    assert (another(TOKENS).logits - theirs(TOKENS).logits).abs().max() > 1e-3
    with pytest.raises(BadRequest, match="attention_mask not among them"):
        ours(TOKENS, attention_mask=RIGHT)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("family", [llama, gpt2])
def test_under_autocast_it_trains_as_with_torchs_own_attention(family, padding, cache):
    """A llama's rotations leave q and k in float32, beside v in bfloat16, and a cache makes float32 of that too."""
    from attn_lab.integrations.transformers import register_as

    counting = Counting()
    register_as("counted", counting, verify=False)
    seen, gradients = PADDINGS[padding], []
    real = torch.ones_like(TOKENS, dtype=torch.bool) if seen is None else seen.bool()
    for name in ("sdpa", "counted"):
        model = family(name).train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(TOKENS, attention_mask=seen, use_cache=cache).logits[real]
        loss = nn.functional.cross_entropy(logits.float(), TOKENS[real])
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    assert {request.shape.dtype for request in counting.runs} == {"bfloat16"}
    for one, other in zip(*gradients, strict=True):
        close(other, one, atol=0.02 * one.abs().max(), rtol=0.02)


def test_the_names_are_none_that_transformers_keeps_for_itself(implementations):
    assert implementations["sdpa_cudnn"] == "lab_torch_cudnn" and implementations["flash2"] == "lab_fa2"
    assert len(set(implementations.values())) == len(implementations)
    assert not any("flash" in name or "sdpa" in name for name in implementations.values())
    close(llama("lab_sdpa_math")(TOKENS).logits, llama("eager")(TOKENS).logits, atol=1e-5, rtol=1e-4)


def test_a_model_without_an_sdpa_flag_takes_every_name_but_those_with_sdpa_in_them(implementations):
    from transformers import SplinterConfig, SplinterModel

    config = SplinterConfig(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                            num_attention_heads=4)  # fmt: skip
    outs = []
    for name in ("eager", implementations["sdpa_math"]):
        torch.manual_seed(0)
        outs.append(SplinterModel._from_config(copy.deepcopy(config), attn_implementation=name).eval()(TOKENS)[0])
    close(outs[1], outs[0], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="does not support an attention implementation through torch"):
        SplinterModel._from_config(config, attn_implementation="lab_sdpa_math")


def test_a_preference_under_a_name_of_ones_own_takes_the_first_that_can():
    from attn_lab.integrations.transformers import register_as

    counting = Counting()
    register_as("mine", ["flash2", counting], verify=False)
    with torch.no_grad():
        close(llama("mine")(TOKENS).logits, llama("eager")(TOKENS).logits, atol=1e-5, rtol=1e-4)
    assert len(counting.runs) == 2
    with pytest.raises(BadRequest, match="without 'flash'"):
        register_as("my_flash", "naive")
    register_as("mine", "naive")  # ours to change
    for theirs in ("sdpa", "eager", ""):
        with pytest.raises(BadRequest, match=f"name of your own; got '{theirs}'"):
            register_as(theirs, "naive")


def test_a_padded_batch_has_one_mask_on_either_side_and_a_full_one_has_the_causal_kernel():
    from attn_lab.integrations.transformers import register_as

    counting = Counting()
    register_as("counted", counting, verify=False)
    with torch.no_grad():
        llama("counted")(TOKENS, attention_mask=torch.ones_like(TOKENS))
        llama("counted")(TOKENS, attention_mask=RIGHT)
        llama("counted")(TOKENS, attention_mask=RIGHT.flip(1))
    kinds = [type(request.mask).__name__ for request in counting.runs]
    assert kinds == ["Causal", "Causal", "TensorMask", "TensorMask", "TensorMask", "TensorMask"]
    assert counting.runs[2] is counting.runs[3]  # one mask a batch, prepared once for all layers


def test_a_padded_position_answers_as_eager_does_for_generation_starts_from_it(implementations):
    outs = [llama(name).eval()(TOKENS, attention_mask=RIGHT).logits for name in ("eager", implementations["naive"])]
    close(outs[1], outs[0], atol=1e-5, rtol=1e-4)


def test_a_mask_where_no_query_sees_anything_is_refused(implementations):
    model = llama(implementations["naive"])
    with pytest.raises(BadRequest, match="lets none"):
        model(TOKENS, attention_mask=torch.zeros(3, 1, 9, 9, dtype=torch.bool))
    with pytest.raises(BadRequest, match=r"expected \(…, 9 or 1, 9\); got \(3, 1, 4, 9\)"):
        model(TOKENS, attention_mask=torch.ones(3, 1, 4, 9, dtype=torch.bool))


def test_a_backend_that_cannot_serve_says_so_through_the_model(implementations):
    with pytest.raises(Unsupported, match="Flash2 refuses: devices: cuda; asked cpu"):
        llama(implementations["flash2"])(TOKENS)


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_encoders_and_attention_across_to_them_answer_the_same(implementations, padding):
    from transformers import BartConfig, BartModel

    def bart(implementation):
        config = BartConfig(vocab_size=50, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
                            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, dropout=0.0,
                            max_position_embeddings=64, attn_implementation=implementation)  # fmt: skip
        torch.manual_seed(0)
        return BartModel(config)

    outs = [bart(name)(TOKENS, attention_mask=PADDINGS[padding], decoder_input_ids=TOKENS[:, :5]).last_hidden_state
            for name in ("eager", implementations["sdpa_flash"])]  # fmt: skip
    close(outs[1], outs[0], atol=1e-5, rtol=1e-4)


SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "head_dim": 8,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "sizes", "told"),
    [
        ("Gemma2ForCausalLM", SMALL, "softcap"),
        ("GptOssForCausalLM", SMALL | {"num_local_experts": 2, "num_experts_per_tok": 1}, "s_aux"),
        ("T5EncoderModel", {"vocab_size": 50, "d_model": 32, "d_kv": 8, "num_layers": 1, "d_ff": 48}, "position_bias"),
    ],
)
def test_what_a_model_asks_beyond_attention_is_refused_and_not_left_out(implementations, family, sizes, told):
    import transformers

    made = getattr(transformers, family)
    model = made(made.config_class(**sizes, attn_implementation=implementations["naive"]))
    with pytest.raises(BadRequest, match=f"{told}, which no backend"):
        model(TOKENS)


@pytest.mark.parametrize("training", [True, False])
def test_a_learned_bias_that_is_still_zero_is_refused_where_it_would_be_trained(implementations, training):
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(image_size=16, patch_size=2, embed_dim=16, depths=[1], num_heads=[2], window_size=8,
                        drop_path_rate=0.0)  # fmt: skip
    torch.manual_seed(0)
    theirs = SwinModel._from_config(config, attn_implementation="eager").train(training)
    ours = SwinModel._from_config(config, attn_implementation=implementations["naive"]).train(training)
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 16, 16)
    with pytest.raises(BadRequest, match="a learned bias"):
        ours(image)
    with torch.no_grad():
        close(ours(image).last_hidden_state, theirs(image).last_hidden_state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["Bloom", "DebertaV2"])
def test_a_model_with_an_attention_of_its_own_is_refused_and_does_not_run_that_under_our_name(implementations, family):
    import transformers

    config = getattr(transformers, f"{family}Config")(vocab_size=50, hidden_size=32, num_hidden_layers=1,
                                                      num_attention_heads=4, intermediate_size=48)  # fmt: skip
    made = getattr(transformers, f"{family}Model")
    with pytest.raises(BadRequest, match=f"{family}Model: .* computes attention by itself"):
        made._from_config(config, attn_implementation=implementations["naive"])
    made._from_config(config, attn_implementation="eager")


def test_of_one_file_a_half_that_uses_the_interface_is_served_and_the_other_half_is_refused(implementations):
    from transformers import GitConfig, GitForCausalLM, GitVisionConfig, GitVisionModel

    GitVisionModel._from_config(GitVisionConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4),
                                attn_implementation=implementations["naive"])  # fmt: skip
    with pytest.raises(BadRequest, match="GitForCausalLM: GitSelfAttention computes attention by itself"):
        GitForCausalLM._from_config(GitConfig(), attn_implementation=implementations["naive"])


def test_importing_the_integration_changes_nothing_of_transformers():
    code = ("from transformers import PreTrainedModel as m; before = m.get_correct_attn_implementation\n"
            "import attn_lab.integrations.transformers\n"
            "assert m.get_correct_attn_implementation is before")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)


def test_attention_dropout_reaches_the_backend_in_training(implementations):
    model = llama(implementations["naive"], attention_dropout=0.5).train()
    assert not torch.equal(model(TOKENS).logits, model(TOKENS).logits)
    model.eval()
    close(model(TOKENS).logits, llama("eager").eval()(TOKENS).logits, atol=1e-5, rtol=1e-4)
    with pytest.raises(Unsupported, match="dropout: none"):
        llama(implementations["sdpa_flash"], attention_dropout=0.5).train()(TOKENS)


# --- timm


@pytest.fixture(scope="module")
def timm():
    """timm, where it is installed; the torchvision it brings may be made for another build of torch, as PyPI's is.

    Its operators cannot be loaded then, nor does timm's attention need any.  But it describes two of them to torch,
    whether or not they are there, and so cannot be imported unless somebody declares them.
    """
    for name in ("timm", "torchvision"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name} (pip install --no-deps --target DIR timm torchvision; PYTHONPATH=DIR)")
    of_cuda = sys.platform == "linux" and "+cpu" not in importlib.metadata.version("torchvision")
    if torch.version.cuda is None and of_cuda:
        declared = torch.library.Library("torchvision", "DEF")  # for the life of this process
        declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(declared)
    return importlib.import_module("timm")


KEPT = []
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("qk_norm", [True, False])
def test_a_vision_transformer_of_timm_answers_as_its_own_attention_does(timm, qk_norm, device):
    from attn_lab.integrations.timm import attention

    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "qk_norm": qk_norm}
    backend = {"cpu": "sdpa_flash", "cuda": "sdpa_efficient"}[device]  # in float32, as the comparison
    theirs = timm.create_model("vit_tiny_patch16_224", **options).to(device)
    ours = timm.create_model("vit_tiny_patch16_224", attn_layer=attention(backend), **options).to(device)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 32, 32, device=device, requires_grad=True)
    for training in (True, False):
        same_with_gradients(theirs.train(training), ours.train(training), x)
    tokens, look_ahead, padded = torch.randn(2, 9, 32, device=device), LOOK_AHEAD.to(device), PADDED.to(device)
    for mask in ({"is_causal": True}, {"attn_mask": ~look_ahead}, {"attn_mask": ~padded[:2, None, None]}):
        close(ours.blocks[0].attn(tokens, **mask), theirs.blocks[0].attn(tokens, **mask), atol=1e-5, rtol=1e-4)
