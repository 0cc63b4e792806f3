"""In what one model differs from another of the same weights, for one feed."""

import inspect
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy
import torch
from tiny_inputs import SOUNDS
from tiny_models import CAUSAL, DEMANDS, LENGTH, Unit
from torch import Tensor, nn

BOTH_WAYS = DEMANDS["both ways"]
READS_PADDING = DEMANDS["reads padding"]
SEEN = {
    "right": (torch.arange(LENGTH) < torch.tensor([[LENGTH], [LENGTH - 1]])).long(),
    "left": (torch.arange(LENGTH) >= torch.tensor([[0], [3]])).long(),
}
REAL = {"left": SEEN["left"].bool()}  # a padded position on the left sees nothing; on the right it sees real ones


def outputs(model: nn.Module, feed: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(0)
    numpy.random.seed(0)  # of masks that speech models train with
    return list(_floats(model(**feed)))


def _floats(out: Any) -> Iterator[Tensor]:
    """Every floating-point tensor of an answer, caches aside."""
    if isinstance(out, Tensor):
        if out.is_floating_point():
            yield out
    elif isinstance(out, dict):
        for key, each in out.items():
            if "past_key_values" not in key and "attentions" not in key:
                yield from _floats(each)
    elif isinstance(out, list | tuple):
        for each in out:
            yield from _floats(each)


def differences(
    unit: Unit, theirs: nn.Module, ours: nn.Module, feed: dict[str, Any]
) -> Iterator[tuple[str, str | None]]:
    """What is compared, and in words where the two differ in it: training, inference, perturbation, generation."""
    feeds = list(_padded(theirs, feed))
    for padding, padded in feeds:
        if padding != "left" or str(unit) not in READS_PADDING:
            yield f"training, padding {padding}", _trained(theirs, ours, padded, REAL.get(padding))
    theirs.eval()
    ours.eval()
    with torch.no_grad():
        for padding, padded in feeds:
            answers = ([_real(out, REAL.get(padding)) for out in outputs(model, padded)] for model in (theirs, ours))
            yield f"inference, padding {padding}", _unlike(*answers)
        for words in ("input_ids", "decoder_input_ids"):
            if words in feed:
                yield f"what moves as one of {words} changes", _perturbed(unit, theirs, ours, feed, words)
        if "input_ids" in feed and theirs.can_generate() and "pixel_values" not in feed:
            for cache, padding in product(("dynamic", "static"), ("left", "right")):
                expected = _generated_by_eager(theirs, feed, padding, cache)
                if expected is not None:
                    yield (f"generation, {cache} cache, padding {padding}",
                           _unlike(expected, _generated(ours, feed, padding, cache)))  # fmt: skip


def _padded(model: nn.Module, feed: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Feeds of the same values: which side is padded, with its mask.  What eager does not take is left out."""
    yield "none", feed
    if "attention_mask" not in inspect.signature(model.forward).parameters or "attention_mask" in feed:
        return
    masks = {}
    if "input_ids" in feed and feed["input_ids"].shape == (2, LENGTH):
        masks = SEEN
    for name in SOUNDS:
        if name in feed:
            for length in {each for each in (feed[name].shape[1], feed[name].shape[-1]) if each >= LENGTH}:
                heard = torch.arange(length) < torch.tensor([[length], [length * 3 // 4]])
                masks = masks | {f"right, {length} frames": heard.long()}
    model.eval()  # lest a batch norm count it
    for padding, seen in masks.items():
        padded = feed | {"attention_mask": seen}
        if _takes(model, padded):
            yield padding, padded
    model.train()


def _takes(model: nn.Module, feed: dict[str, Any]) -> bool:
    try:
        with torch.no_grad():
            outputs(model, feed)
    except Exception:  # noqa: BLE001 whatever it is, eager does not take it
        return False
    return True


def _perturbed(unit: Unit, theirs: nn.Module, ours: nn.Module, feed: dict[str, Any], words: str) -> str | None:
    """Other moves than under eager, or early answers of a decoder that move with a later token, of an encoder not."""
    place = feed[words].shape[1] // 2
    other = feed | {words: feed[words].index_fill(1, torch.tensor([place]), 7)}
    moved = [[after - before for after, before in zip(outputs(model, other), outputs(model, feed), strict=True)]
             for model in (theirs, ours)]  # fmt: skip
    if difference := _unlike(*moved):
        return difference
    first = next((each for each in moved[1] if each.dim() == 3 and each.shape[1] == feed[words].shape[1]), None)
    if first is None:
        return None
    early = float(first[:, :place].abs().max()) > 1e-5 * float(first.abs().max())
    decodes = ours.config.is_encoder_decoder and words == "decoder_input_ids"
    if early and str(unit) not in BOTH_WAYS and (decodes or unit.model.__name__.endswith(CAUSAL)):
        return "an earlier position moves with a later token, of a decoder"
    if not early and unit.model.__name__.endswith("ForMaskedLM"):
        return "no earlier position moves with a later token, of an encoder"
    return None


def _real(out: Tensor, real: Tensor | None) -> Tensor:
    """Answers at positions that are no padding; of some models the first position has none."""
    if real is None or out.dim() < 2 or out.shape[0] != real.shape[0] or out.shape[1] not in (LENGTH, LENGTH - 1):
        return out
    return out[real[:, -out.shape[1] :]]


def _trained(theirs: nn.Module, ours: nn.Module, feed: dict[str, Any], real: Tensor | None) -> str | None:
    outs, gradients = [], []
    for model in (theirs, ours):
        outs.append([_real(out, real) for out in outputs(model, feed)])
        made = torch.Generator().manual_seed(2)
        loss = sum((out * torch.randn(out.shape, generator=made)).sum() for out in outs[-1] if out.requires_grad)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        if not isinstance(loss, Tensor):  # nothing is trained
            continue
        gradients.append([torch.zeros(()) if each is None else each
                          for each in torch.autograd.grad(loss, weights, allow_unused=True)])  # fmt: skip
    return _unlike(*outs) or (_unlike(*gradients, of="gradient ") if gradients else None)


def _unlike(expected: list[Tensor], got: list[Tensor], of: str = "output ") -> str | None:
    """In words where two lists of tensors differ by more than rounding, or None."""
    if [each.shape for each in expected] != [each.shape for each in got]:
        return f"{of}shapes {[tuple(each.shape) for each in expected]} and {[tuple(each.shape) for each in got]}"
    largest = max((float(each.detach().abs().max()) for each in expected if each.numel()), default=0.0)
    for place, (one, other) in enumerate(zip(expected, got, strict=True)):
        if one.numel():
            off = float((one - other).detach().abs().max())
            if not off <= 2e-4 * max(float(one.detach().abs().max()), 1e-3 * largest) + 1e-6:
                return f"{of}{place} {tuple(one.shape)} off by {off:.2g} of {float(one.detach().abs().max()):.2g}"
    return None


def _generated(model: nn.Module, feed: dict[str, Any], padding: str, cache: str) -> list[Tensor]:
    """Logits of three tokens, chosen greedily."""
    torch.manual_seed(0)
    made = model.generate(
        feed["input_ids"], attention_mask=SEEN[padding], max_new_tokens=3, min_new_tokens=3, do_sample=False,
        num_beams=1, cache_implementation=cache, disable_compile=True, return_dict_in_generate=True,
        output_logits=True,
    )  # fmt: skip
    return list(made.logits)


def _generated_by_eager(model: nn.Module, feed: dict[str, Any], padding: str, cache: str) -> list[Tensor] | None:
    try:
        return _generated(model, feed, padding, cache)
    except Exception:  # noqa: BLE001 what eager does not generate either is not compared
        return None
