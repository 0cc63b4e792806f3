"""Every architecture of the installed transformers that goes through AttentionInterface: equal to eager, or refused."""

import importlib.util

import pytest

if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs transformers (the extra hf)", allow_module_level=True)

import torch
import transformers
from architectures import judged
from tiny_models import Unit, modeling_modules, units_of
from transformers import AttentionInterface, AttentionMaskInterface

from attn_lab.integrations.transformers import mask, register

transformers.logging.set_verbosity_error()
FAULTS = ("different", "failed")


@pytest.mark.parametrize("module", modeling_modules(), ids=lambda module: module.split(".")[2])
def test_an_architecture_is_equal_to_eager_or_refused(module, record_property):
    name = register()["naive"]
    verdicts = [judged(unit, name) for unit in units_of(module)]
    for verdict in verdicts:
        record_property("architecture", list(verdict))
    assert not [verdict for verdict in verdicts if verdict.kind in FAULTS]


def _unmasked(module, query, key, value, attention_mask, scaling=None, **others):
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, 1) for each in (key, value))
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def _without_padding(*sizes, **others):
    return mask(*sizes, **(others | {"attention_mask": None}))


@pytest.mark.parametrize("model", ["LlamaForCausalLM", "BertForMaskedLM", "BartForConditionalGeneration"])
@pytest.mark.parametrize("fault", ["no mask", "padding ignored", "keys too many"])
def test_a_wrong_attention_is_seen(model, fault):
    made = getattr(transformers, model)
    attend = AttentionInterface()[register()["naive"]]
    if fault == "no mask":
        AttentionInterface.register("planted", _unmasked)
    elif fault == "padding ignored":
        AttentionInterface.register("planted", attend)
    else:
        AttentionInterface.register("planted", lambda module, q, k, v, given, **others: attend(
            module, q, k, v, None if given is None else torch.ones_like(given), **others))  # fmt: skip
    AttentionMaskInterface.register("planted", _without_padding if fault == "padding ignored" else mask)
    assert judged(Unit(made.__module__, made), "planted").kind == "different"
