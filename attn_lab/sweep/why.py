"""attn-lab why: whom backend=auto takes for a question, by which figures, with which kernels, and who could not."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from attn_lab.bench.case import Case
from attn_lab.config.build import build
from attn_lab.config.errors import explained
from attn_lab.config.resolvers import register_resolvers
from attn_lab.config.schema import register
from attn_lab.core.backend import take
from attn_lab.core.errors import BadRequest, Refused
from attn_lab.core.machine import Machine
from attn_lab.core.request import PASSES, Request
from attn_lab.layer.auto import Auto, bucket_of, pass_of
from attn_lab.layer.kept import Kept
from attn_lab.run.local.machines import local_machines

KINDS = {"training": PASSES, "inference": ("forward",)}


def why(words: Sequence[str]) -> int:
    """The command.  Words are those of a sweep's one case; training and inference are told, or what passes=[…] says.

    Returns 1 where nobody can answer.  Raises BadRequest for words that make no case.
    """
    case = _case(words)
    machine = local_machines(str(case.config["device"]))[0]
    console = Console(highlight=False)
    assert isinstance(case.who, Auto)
    _say(console, f"{case.setting} on {machine.name} ({machine.device}); auto {case.who.told(machine)}", "bold")
    asked = KINDS
    if any(word.startswith("passes=") for word in words):
        asked = {"training" if case.request.needs_backward else "inference": case.request.passes}
    return max([_told(case.who, kind, replace(case.request, passes=passes), machine, console)
                for kind, passes in asked.items()])  # fmt: skip


def _told(auto: Auto, kind: str, request: Request, machine: Machine, console: Console) -> int:
    plan, one = auto.followed(machine), pass_of(request)
    found = plan and plan.find(bucket_of(request), one)
    reasons = auto.refusals(request, machine)
    passed_over: Mapping[str, Sequence[str]] = {}
    try:
        if reasons:
            raise Refused("auto", reasons)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a bucket is only near is said below
            taken = take(auto, request, machine)
        passed_over = taken.passed_over
        _say(console, f"\n{kind}: {taken.why}", "green")
        patterns = [f"{name} {pattern}" for name, pattern in taken.by.kernels.items()
                    if request.needs_backward or name == "forward"]  # fmt: skip
        _say(console, f"  kernels: {' · '.join(patterns)}")
    except Refused as refused:
        reasons = refused.reasons
        _say(console, f"\n{kind}: nobody", "red")
    if found is None and not reasons:
        near = Kept.of(machine).plan.find(bucket_of(request), one)
        found = near if near and near.exact else None  # only the question itself was measured
    if found:
        word = "the question's own" if found.exact else "the nearest"
        _say(console, f"  bucket: {found.bucket}; {word}, measured at {', '.join(found.entry.measured)}")
        ranking = found.entry.passes[one].ms
        first = next(iter(ranking.values()))
        for name, ms in ranking.items():
            _say(console, f"    {name:<{max(map(len, ranking))}}  {ms:>8.4g} ms  {ms / first:5.2f}×")
        for name, could_not in found.entry.could_not.items():
            if name not in passed_over:
                _say(console, f"    {name} could not there: {could_not}", "dim")
    for reason in reasons:
        _say(console, f"  refused: {reason}", "yellow")
    for name, why_not in passed_over.items():
        _say(console, f"  passed over: {name}: {'; '.join(why_not)}", "yellow")
    return int(bool(reasons))


def _case(words: Sequence[str]) -> Case:
    for word in words:
        if "=" not in word or word.startswith(("-", "backend=")):
            raise BadRequest(
                f"why: expected words such as shape=llama3_8b mask=causal plan=FILE device=cpu; got {word!r}"
            )
    register()
    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with initialize_config_module("attn_lab.conf", version_base="1.3"):
            config = compose("config", ["backend=auto", *words], return_hydra_config=True)
        return build(config, local_machines(config.device)[0])
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explained(error) from None


def _say(console: Console, words: str, style: str = "") -> None:
    console.print(Text(words, style), soft_wrap=True)
