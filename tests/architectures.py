"""One architecture under its own attention and under ours: equal, refused with a reason, different, or not built."""

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy
import torch
from tiny_models import LENGTH, Unit, inputs_of, tiny_config
from torch import Tensor, nn

from attn_lab.core.errors import BadRequest, Unsupported

REFUSED = (BadRequest, Unsupported)
LARGEST = 16_000_000  # weights
CHANGED = 4  # the position whose token is another, to see which answers move
SEEN = {
    "none": None,
    "right": (torch.arange(LENGTH) < torch.tensor([[LENGTH], [LENGTH - 1]])).long(),
    "left": (torch.arange(LENGTH) >= torch.tensor([[0], [3]])).long(),
}


class Verdict(NamedTuple):
    unit: str
    kind: str  # "equal", "refused", "different", "failed" or "not built"
    why: str = ""


def judged(unit: Unit, name: str) -> Verdict:
    """Compare outputs, gradients, perturbations and generation of one model under eager and under `name`."""
    try:
        config = tiny_config(unit)
        _check_small(unit, config)
        theirs = _made(unit, config, "eager").train()
        feed = _accepted(theirs, inputs_of(theirs))
    except Exception as error:  # noqa: BLE001 whatever it is, it is told
        first = (str(error).strip().splitlines() or [""])[0]
        return Verdict(str(unit), "not built", f"{type(error).__name__}: {first[:160]}")
    try:
        ours = _made(unit, config, name).train()
        ours.load_state_dict(theirs.state_dict())
        for what, difference in _differences(theirs, ours, feed):
            if difference:
                return Verdict(str(unit), "different", f"{what}: {difference}")
    except REFUSED as reason:
        return Verdict(str(unit), "unsupported", str(reason))
    except Exception as error:  # noqa: BLE001 whatever it is, it is told
        return Verdict(str(unit), "failed", f"{type(error).__name__}: {error}")
    return Verdict(str(unit), "equal")


def _check_small(unit: Unit, config: Any) -> None:
    """Raise ValueError for a model with more weights than a test has time for, before they are made."""
    weights = 0
    with contextlib.suppress(Exception), torch.device("meta"):
        model = unit.model._from_config(copy.deepcopy(config), attn_implementation="eager")
        weights = sum(weight.numel() for weight in model.parameters())
    if weights > LARGEST:
        raise ValueError(f"{weights} weights, which no size known here makes fewer")


def _made(unit: Unit, config: Any, name: str) -> nn.Module:
    torch.manual_seed(0)
    model = unit.model._from_config(copy.deepcopy(config), attn_implementation=name)
    made = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.dim() >= 2:  # large enough for attention to choose
                weight.normal_(0, 1.5 * weight[0].numel() ** -0.5, generator=made)
    return model


def _accepted(model: nn.Module, feeds: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The first inputs with which the model answers something finite under its own attention, or what the first met."""
    first: Exception | None = None
    for feed in feeds:
        try:
            with torch.no_grad():
                outs = outputs(model, feed)
            if outs and all(bool(torch.isfinite(out).all()) for out in outs):
                return feed
            raise ValueError("eager answers nothing finite")
        except Exception as error:  # noqa: BLE001 whatever it is, it is told
            first = first or error
    raise first or ValueError("no inputs are known for its signature")


def outputs(model: nn.Module, feed: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(0)
    numpy.random.seed(0)  # of masks that speech models train with
    return list(_floats(model(**feed)))


def _floats(out: Any, name: str = "") -> Iterator[Tensor]:
    """Every floating-point tensor of an answer, caches aside."""
    if isinstance(out, Tensor):
        if out.is_floating_point():
            yield out
    elif isinstance(out, dict):
        for key, each in out.items():
            if "past_key_values" not in key and "attentions" not in key:
                yield from _floats(each, key)
    elif isinstance(out, list | tuple):
        for each in out:
            yield from _floats(each)


def _differences(theirs: nn.Module, ours: nn.Module, feed: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    takes = "attention_mask" in inspect.signature(theirs.forward).parameters and "input_ids" in feed
    for padding, seen in SEEN.items():
        if seen is not None and not takes:
            continue
        padded = feed | ({} if seen is None else {"attention_mask": seen})
        real = None if padding != "left" else seen.bool()
        yield f"training, padding {padding}", _trained(theirs, ours, padded, real)
    theirs.eval()
    ours.eval()
    with torch.no_grad():
        for padding in ("none", "left") if takes else ("none",):
            padded = feed | ({} if padding == "none" else {"attention_mask": SEEN[padding]})
            real = None if padding != "left" else SEEN[padding].bool()
            yield f"inference, padding {padding}", _unlike(
                *([_real(out, real) for out in outputs(model, padded)] for model in (theirs, ours)))  # fmt: skip
        if "input_ids" in feed:
            other = feed | {"input_ids": feed["input_ids"].index_fill(1, torch.tensor([CHANGED]), 7)}
            moved = [[after - before for after, before in zip(outputs(model, other), outputs(model, feed), strict=True)]
                     for model in (theirs, ours)]  # fmt: skip
            yield f"what moves as token {CHANGED} changes", _unlike(*moved)
        if "input_ids" in feed and theirs.can_generate() and "pixel_values" not in feed:
            for cache, padding in (("dynamic", "left"), ("dynamic", "right"), ("static", "left"), ("static", "right")):
                yield f"generation, {cache} cache, padding {padding}", _generated(theirs, ours, feed, padding, cache)


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
        if not isinstance(loss, Tensor):
            return _unlike(*outs) if len(outs) == 2 else None
        gradients.append([torch.zeros(()) if each is None else each
                          for each in torch.autograd.grad(loss, weights, allow_unused=True)])  # fmt: skip
    return _unlike(*outs) or _unlike(*gradients, of="gradient ")


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


def _generated(theirs: nn.Module, ours: nn.Module, feed: dict[str, Any], padding: str, cache: str) -> str | None:
    said: list[Callable[[], Any]] = []
    for model in (theirs, ours):
        try:
            torch.manual_seed(0)
            made = model.generate(
                feed["input_ids"], attention_mask=SEEN[padding], max_new_tokens=3, min_new_tokens=3, do_sample=False,
                num_beams=1, cache_implementation=cache, disable_compile=True, return_dict_in_generate=True,
                output_logits=True,
            )  # fmt: skip
            said.append(list(made.logits))
        except REFUSED:
            raise
        except Exception as error:  # noqa: BLE001 whatever it is, it is told
            if model is theirs:
                return None  # not generated by eager either
            return f"{type(error).__name__}: {error}"
    return _unlike(*said)
