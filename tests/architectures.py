"""One architecture under its own attention and under ours: equal, refused with a reason, different, or not built."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from model_differences import differences, outputs
from tiny_inputs import inputs_of
from tiny_models import Unit, tiny_config
from torch import nn

from attn_lab.core.errors import BadRequest, Unsupported
from attn_lab.integrations.transformers_models import unreachable

REFUSED = (BadRequest, Unsupported)
LARGEST = 16_000_000  # weights


class Verdict(NamedTuple):
    unit: str
    kind: str  # "equal", "unsupported", "different", "failed" or "not built"
    why: str = ""  # of an equal one: what was compared


def judged(unit: Unit, name: str) -> Verdict:
    """Compare outputs, gradients, perturbations and generation of one model under eager and under `name`."""
    config = None
    try:
        config = tiny_config(unit)
        _check_small(unit, config)
        theirs = made(unit, config, "eager").train()
        feed = _accepted(theirs, inputs_of(unit, theirs))
    except Exception as error:  # noqa: BLE001 whatever it is, it is told
        return _inspected(unit, config, name, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
    try:
        ours = made(unit, config, name).train()
        ours.load_state_dict(theirs.state_dict())
        compared = []
        for what, difference in differences(unit, theirs, ours, feed):
            compared.append(what)
            if difference:
                return Verdict(str(unit), "different", f"{what}: {difference}")
    except REFUSED as reason:
        return Verdict(str(unit), "unsupported", str(reason))
    except Exception as error:  # noqa: BLE001 whatever it is, it is told
        return Verdict(str(unit), "failed", f"{type(error).__name__}: {error}")
    return Verdict(str(unit), "equal", "; ".join(compared))


def _inspected(unit: Unit, config: Any, name: str, why: str) -> Verdict:
    """What the classes of a model that cannot be run say: refused when it is given the name, or not built."""
    if config is not None:
        try:
            with torch.device("meta"):
                unit.model._from_config(copy.deepcopy(config), attn_implementation=name)
        except REFUSED as reason:
            return Verdict(str(unit), "unsupported", str(reason))
        except Exception:  # noqa: BLE001 the classes are asked below
            pass
    reason = unreachable(unit.model)
    return Verdict(str(unit), "unsupported", reason) if reason else Verdict(str(unit), "not built", why)


def _check_small(unit: Unit, config: Any) -> None:
    """Raise ValueError for a model with more weights than a test has time for, before they are made."""
    weights = 0
    with contextlib.suppress(Exception), torch.device("meta"):
        model = unit.model._from_config(copy.deepcopy(config), attn_implementation="eager")
        weights = sum(weight.numel() for weight in model.parameters())
    if weights > LARGEST:
        raise ValueError(f"{weights} weights, which no size known here makes fewer")


def made(unit: Unit, config: Any, name: str) -> nn.Module:
    torch.manual_seed(0)
    model = unit.model._from_config(copy.deepcopy(config), attn_implementation=name)
    made = torch.Generator().manual_seed(1)
    with torch.no_grad():
        weights = [getattr(module, "weight", None) for module in model.modules()]
        experts = [
            weight for weight in model.parameters() if weight.dim() == 3
        ]  # which some models leave uninitialized
        for weight in (*weights, *experts):
            if isinstance(weight, nn.Parameter) and weight.dim() >= 2 and weight.numel():
                weight.normal_(0, 1.5 * weight[0].numel() ** -0.5, generator=made)  # large: attention must choose
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
