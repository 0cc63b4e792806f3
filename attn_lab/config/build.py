"""One case from its configuration: resolved and checked where it is planned, built once more where it runs."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attn_lab.config.basis import basis_of
from attn_lab.config.schema import Config, unknown_keys
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine, detect
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.core.suggest import did_you_mean
from attn_lab.measure.case import Case

NOT_THE_QUESTION = (
    "name",
    "logger",
    "aa_repeat",
    "baseline",
    "table",
    "report",
    "resume",
)  # where an answer is kept, never the answer
NAMES = ("backend", "mask", "subject")
Part = Callable[[str, Any], Any]  # a key and its resolved settings → what they describe


def build(
    config: DictConfig,
    machine: Machine,
    *,
    choices: Mapping[str, str] | None = None,
    made: dict[str, Any] | None = None,
) -> Case:
    """One case from one composed configuration, for the machine it will run on.

    Args:
        choices: the options chosen by group; None: those Hydra noted in the configuration.
        made: parts by what they were made from; those are not made again.
    """
    if unknown := unknown_keys(config):
        raise BadRequest(f"{unknown[0]}: no such key; expected one of {', '.join(unknown[1:])}"
                         f"{did_you_mean(unknown[0].rpartition('.')[2], unknown[1:])}")  # fmt: skip
    question, timeout = question_of(config)
    question["device"] = machine.device
    made = {} if made is None else made

    def part(key: str, settings: Any) -> Any:
        known = json.dumps(settings, sort_keys=True, default=str)
        if known not in made:
            made[known] = instantiate(OmegaConf.select(config, key))
        return made[known]

    choices = config.hydra.runtime.choices if choices is None else choices
    return _assembled(question, {name: choices[name] for name in NAMES}, timeout, part, machine=machine)


def question_of(config: DictConfig) -> tuple[dict[str, Any], float]:
    """The question of a composed configuration, as plain values, and the case's timeout in seconds."""
    question: dict[str, Any] = {}
    for key in Config.__dataclass_fields__:
        if key not in NOT_THE_QUESTION:
            node = config[key]
            question[key] = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    timeout = question["measure"].pop("timeout")  # may keep an answer from coming, never change it
    return question, timeout


def packed(case: Case) -> dict[str, Any]:
    """A case as plain values, for another process: its parts may be anything, and not everything can be sent."""
    return {"question": dict(case.config), "names": {name: getattr(case, f"{name}_name") for name in NAMES},
            "basis": dict(case.basis), "timeout": case.timeout}  # fmt: skip


def unpacked(plain: Mapping[str, Any]) -> Case:
    """The case that `packed` made plain, its parts built here."""
    return _assembled(**plain, part=lambda _, settings: instantiate(settings))


def _assembled(
    question: dict[str, Any],
    names: Mapping[str, str],
    timeout: float,
    part: Part,
    basis: Mapping[str, str] | None = None,
    machine: Machine | None = None,
) -> Case:
    request = Request(
        shape=Shape(**question["shape"]), mask=part("mask", question["mask"]), passes=tuple(question["passes"])
    )
    backend, subject = part("backend", question["backend"]), part("subject", question["subject"])
    probes = {name: part(f"probe.{name}", each) if isinstance(each, Mapping) else each
              for name, each in question["probe"].items()}  # fmt: skip
    if basis is None:
        basis = basis_of(backend, (subject, request.mask, *probes.values()), machine or detect(question["device"]))
    if label := getattr(backend, "label", None):
        names = {**names, "backend": label}
    return Case(
        **{f"{key}_name": name for key, name in names.items()}, round=question["round"], seed=question["seed"],
        is_aa_repeat=question["is_aa_repeat"], checked_slices=question["measure"]["checked_slices"], request=request,
        backend=backend, subject=subject, probes=probes, config=question, basis=basis, timeout=timeout,
    )  # fmt: skip
