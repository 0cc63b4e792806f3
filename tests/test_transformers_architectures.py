"""Every architecture of the installed transformers that goes through AttentionInterface: equal to eager, or refused."""

import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs transformers (the extra hf)", allow_module_level=True)

import torch
import transformers
import yaml
from architectures import judged, made
from model_differences import differences
from tiny_inputs import tokens
from tiny_models import MODELS, Unit, modeling_modules, tiny_config, units_of
from transformers import AttentionInterface, AttentionMaskInterface

from attn_lab.integrations.transformers import mask, register

transformers.logging.set_verbosity_error()
FAULTS = ("different", "failed")
NAME = register()["naive"]
NOT_BUILT = yaml.safe_load(Path(__file__).with_name("not_built.yaml").read_text(encoding="utf-8"))
NEEDS_TIMM = {unit for unit, why in NOT_BUILT.items() if why.startswith("needs timm")}


@pytest.mark.parametrize("module", modeling_modules(), ids=lambda module: module.split(".")[2])
def test_an_architecture_is_equal_to_eager_or_refused(module, record_property):
    units = list(units_of(module))
    verdicts = [judged(unit, NAME) for unit in units]
    for verdict in verdicts:
        record_property("architecture", list(verdict))
    assert not [verdict for verdict in verdicts if verdict.kind in FAULTS]
    pinned = NOT_BUILT.keys() & set(map(str, units))
    not_built = {verdict.unit: verdict.why for verdict in verdicts if verdict.kind == "not built"}
    assert not {unit: why for unit, why in not_built.items() if unit not in pinned}, "pin it, or write what it demands"
    built = pinned - not_built.keys() - (NEEDS_TIMM if importlib.util.find_spec("timm") else set())
    assert not built, "is built or refused by now: remove the pin"


def test_pins_name_architectures_that_there_are():
    for unit in NOT_BUILT:
        folder, name = unit.split(".")
        files = (MODELS / folder).glob("modeling_*.py")
        assert any(f"class {name}(" in file.read_text(encoding="utf-8") for file in files), unit


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
    attend = AttentionInterface()[NAME]
    if fault == "no mask":
        AttentionInterface.register("planted", _unmasked)
    elif fault == "padding ignored":
        AttentionInterface.register("planted", attend)
    else:
        AttentionInterface.register("planted", lambda module, q, k, v, given, **others: attend(
            module, q, k, v, None if given is None else torch.ones_like(given), **others))  # fmt: skip
    AttentionMaskInterface.register("planted", _without_padding if fault == "padding ignored" else mask)
    assert judged(Unit(made.__module__, made), "planted").kind == "different"


@pytest.mark.parametrize("model", ["LlamaForCausalLM", "GPT2LMHeadModel", "BartForConditionalGeneration"])
def test_a_wrong_step_of_cached_generation_is_seen(model):
    attend = AttentionInterface()[NAME]

    def forgetful(module, q, k, v, given, **others):
        """Right but where one query meets a cache: the newest key is not seen."""
        if q.shape[2] == 1 < k.shape[2]:
            k, v, given = k[:, :, :-1], v[:, :, :-1], None if given is None else given[..., :-1]
        return attend(module, q, k, v, given, **others)

    AttentionInterface.register("planted", forgetful)
    AttentionMaskInterface.register("planted", mask)
    made = getattr(transformers, model)
    verdict = judged(Unit(made.__module__, made), "planted")
    assert verdict.kind == "different"
    assert verdict.why.startswith("generation")


@pytest.mark.parametrize(("model", "decodes"), [("BertLMHeadModel", False), ("BertForMaskedLM", True)])
def test_what_moves_with_a_later_token_is_asked_of_eager_too(model, decodes):
    unit = Unit(getattr(transformers, model).__module__, getattr(transformers, model))
    config = tiny_config(unit)
    config.is_decoder = decodes
    eager = made(unit, config, "eager")
    found = dict(differences(unit, eager, eager, {"input_ids": tokens(config)}))
    assert "position moves with a later token" in str(found["what moves as one of input_ids changes"])
