"""attn-lab explain: which backend auto selects for a request, from which measurements, and what was unsupported."""

import argparse
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hydra import compose, initialize_config_module
from rich.console import Console
from rich.text import Text

from attn_lab.cli.parser import takes_json, takes_overrides
from attn_lab.config.build import build
from attn_lab.config.errors import explained
from attn_lab.config.resolvers import register_resolvers
from attn_lab.config.schema import register
from attn_lab.core.backend import select
from attn_lab.core.errors import BadRequest, Unsupported
from attn_lab.core.machine import Machine
from attn_lab.core.request import PASSES, Request
from attn_lab.core.suggest import did_you_mean
from attn_lab.measure.case import Case
from attn_lab.nn.auto.auto import Auto, bucket_of, pass_of
from attn_lab.nn.auto.cache import AutotuneCache
from attn_lab.nn.auto.candidates import unsupported_reasons
from attn_lab.nn.auto.table import SHIPPED, DispatchTable, Found
from attn_lab.report.terminal import Terminal
from attn_lab.run.local.machines import local_machines

KINDS = {"training": PASSES, "inference": ("forward",)}


def arguments(parser: argparse.ArgumentParser) -> None:
    takes_json(parser)
    takes_overrides(parser)
    parser.epilog = ("Overrides of one case, such as shape=llama3_8b mask=causal table=FILE device=cpu; on=GPU answers "
                     f"from the table shipped for a GPU that is not here: {', '.join(_shipped())}")  # fmt: skip


def run(given: argparse.Namespace) -> int:
    """Training and inference are explained, or what passes=[…] says.  Returns 1 where no backend can answer."""
    words = list(given.overrides)
    other = [word.removeprefix("on=") for word in words if word.startswith("on=")]
    words = [word for word in words if not word.startswith("on=")]
    if other and any(word.startswith(("table=", "device=")) for word in words):
        raise BadRequest("explain: expected on=GPU without table= and device=, which it stands for; got both")
    table = _plan_of(other[-1]) if other else None
    case = _case(words, _machine_of(table) if table else None)
    kinds = KINDS
    if any(word.startswith("passes=") for word in words):
        kinds = {"training" if case.request.needs_backward else "inference": case.request.passes}
    machine = _machine_of(table) if table else local_machines(str(case.config["device"]))[0]
    console = Terminal(highlight=False, quiet=given.json)
    assert isinstance(case.backend, Auto)
    auto = replace(case.backend, table=table) if table else case.backend
    _say(console, f"{case.setting} on {machine.name} ({machine.device}); auto {auto.description(machine)}", "bold")
    answers = {}
    for kind, passes in kinds.items():
        request = replace(case.request, passes=passes)
        answers[kind] = _from_plan(table, request, machine) if table else _answer(auto, request, machine)
        _print(kind, answers[kind], console)
    if given.json:
        texts = {"case": case.setting, "machine": machine.name, **{kind: vars(each) for kind, each in answers.items()}}
        print(json.dumps(texts, indent=1, ensure_ascii=False))
    return int(any(answer.backend is None for answer in answers.values()))


def _shipped() -> list[str]:
    return [file.stem for file in sorted(SHIPPED.glob("*.json"))]


def _plan_of(name: str) -> DispatchTable:
    if name.lower() not in _shipped():
        names = _shipped()
        raise BadRequest(f"on: expected a GPU with a shipped table, {', '.join(names)}; got {name!r}"
                         f"{did_you_mean(name, names)}")  # fmt: skip
    return replace(DispatchTable.read(SHIPPED / f"{name.lower()}.json"), source=f"shipped for {name.lower()}")


def _machine_of(table: DispatchTable) -> Machine:
    """The machine that the table was measured on, with the packages that were installed there."""
    made = table.made["machine"]
    return Machine(device=made["device"], name=table.gpu, memory=0, capability=tuple(made["capability"]),
                   driver=made.get("driver"), packages=dict(table.made["versions"]))  # fmt: skip


@dataclass
class Answer:
    """Which backend is selected for one kind of use, and from what."""

    backend: str | None
    why: str = ""
    kernels: dict[str, str] = field(default_factory=dict)
    bucket: str = ""
    exact: bool = False
    measured: list[str] = field(default_factory=list)
    ms: dict[str, float] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)  # when the table was measured
    reasons: list[str] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)


def _from_plan(table: DispatchTable, request: Request, machine: Machine) -> Answer:
    """The first backend of the table's nearest bucket that this machine's capability and the request admit."""
    found = table.find(bucket_of(request), pass_of(request))
    if found is None:
        return Answer(None, reasons=[f"the table for {table.gpu} has no comparable shape, dtype and mask"])
    answer = Answer(None)
    _add_bucket(answer, found, request)
    for name in answer.ms:
        if reasons := unsupported_reasons(name, request, machine):
            answer.passed_over[name] = list(reasons)
        elif answer.backend is None:
            answer.backend, answer.why = (
                name,
                f"{name}, by the table {table.source}: {found.entry.passes[pass_of(request)].why}",
            )
    if answer.backend is None:
        answer.reasons = ["no backend of the table supports this request"]
    return answer


def _answer(auto: Auto, request: Request, machine: Machine) -> Answer:
    table, one = auto.followed(machine), pass_of(request)
    found = table and table.find(bucket_of(request), one)
    answer = Answer(None, reasons=auto.unsupported_reasons(request, machine))
    try:
        if answer.reasons:
            raise Unsupported("auto", answer.reasons)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a bucket is only near is printed below
            taken = select(auto, request, machine)
        answer.backend, answer.why = taken.why.partition(",")[0], taken.why
        answer.passed_over = {name: list(reasons) for name, reasons in taken.passed_over.items()}
        answer.kernels = {name: pattern for name, pattern in taken.by.kernels.items()
                          if request.needs_backward or name == "forward"}  # fmt: skip
    except Unsupported as refused:
        answer.reasons = list(refused.reasons)
    if found is None and not answer.reasons:
        near = AutotuneCache.of(machine).table.find(bucket_of(request), one)
        found = near if near and near.exact else None  # only the question itself was measured
    if found:
        _add_bucket(answer, found, request)
    return answer


def _add_bucket(answer: Answer, found: Found, request: Request) -> None:
    answer.bucket, answer.exact, answer.measured = str(found.bucket), found.exact, list(found.entry.measured)
    answer.ms, answer.unsupported = dict(found.entry.passes[pass_of(request)].ms), dict(found.entry.could_not)


def _print(kind: str, answer: Answer, console: Console) -> None:
    _say(console, f"\n{kind}: {answer.why or 'no backend'}", "green" if answer.backend else "red")
    if answer.kernels:
        _say(console, f"  kernels match: {' · '.join(f'{name} {pattern}' for name, pattern in answer.kernels.items())}")
    if answer.bucket:
        near = "exactly this shape's" if answer.exact else "the nearest"
        _say(console, f"  bucket: {answer.bucket}; {near}, measured at {', '.join(answer.measured)}")
        first = next(iter(answer.ms.values()))
        for name, ms in answer.ms.items():
            _say(console, f"    {name:<{max(map(len, answer.ms))}}  {ms:>8.4g} ms  {ms / first:5.2f}×")
        for name, reason in answer.unsupported.items():
            if name not in answer.passed_over:
                _say(console, f"    {name} unsupported there: {reason}", "dim")
    for reason in answer.reasons:
        _say(console, f"  unsupported: {reason}", "yellow")
    for name, reasons in answer.passed_over.items():
        _say(console, f"  passed over: {name}: {'; '.join(reasons)}", "yellow")


def _case(words: Sequence[str], machine: Machine | None) -> Case:
    """The one case that `words` describe; `machine` stands for the one here."""
    for word in words:
        if "=" not in word or word.startswith(("-", "backend=")):
            raise BadRequest(
                f"explain: expected overrides such as shape=llama3_8b mask=causal table=FILE device=cpu; got {word!r}"
            )
    register()
    register_resolvers(lambda: machine.device if machine else local_machines("auto")[0].device)
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with initialize_config_module("attn_lab.conf", version_base="1.3"):
            config = compose("config", ["backend=auto", *words], return_hydra_config=True)
        return build(config, machine or local_machines(config.device)[0])
    except Exception as error:  # noqa: BLE001  whatever composing raises is about the words
        raise explained(error) from None


def _say(console: Console, words: str, style: str = "") -> None:
    console.print(Text(words, style), soft_wrap=True)
