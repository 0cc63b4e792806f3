"""attn-lab doctor: every backend on this machine, ready or all reasons why not, and how to install it."""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.table import Table
from rich.text import Text

from attn_lab import conf
from attn_lab.cli.parser import key_values, takes_json
from attn_lab.core.backend import Backend
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.errors import Unsupported
from attn_lab.core.machine import Machine, detect, software
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.nn.auto.auto import Auto
from attn_lab.report.terminal import Terminal

BUILD_NOTE = "   # after torch; without a wheel it compiles for minutes, MAX_JOBS=4 bounds its memory"


class State(NamedTuple):
    """What doctor found of one backend."""

    name: str
    ready: bool
    package: str
    reasons: list[str]
    runs: str
    install: str  # the command that would make it ready, or ""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("settings", nargs="*", metavar="device=DEVICE", help="auto (default), cuda or cpu")
    takes_json(parser)


def run(given: argparse.Namespace) -> int:
    """Print the table.  Raises BadRequest for a device that is not here."""
    machine = detect(key_values("doctor", given.settings, {"device": "auto"})["device"])
    backends = [_state(file.stem, instantiate(config.backend), machine)
                for file in sorted(Path(conf.__path__[0], "backend").glob("*.yaml"))
                for config in [OmegaConf.create({"table": None, "backend": OmegaConf.load(file)})]]  # fmt: skip
    versions = software(machine)
    if given.json:
        states = [each._asdict() for each in backends]
        print(json.dumps({"machine": machine.as_json(), "versions": versions, "backends": states}, indent=1))
        return 0
    console = Terminal()
    title = " · ".join(f"{name} {version}" for name, version in versions.items())
    console.print(Text(f"{machine.name} ({machine.device}) · {title}"), soft_wrap=True)
    table = Table("backend", "state", "package", "runs / why not", box=None, pad_edge=False)
    for each in backends:
        state = Text("ready", "green") if each.ready else Text("not here", "yellow")
        table.add_row(each.name, state, each.package, Text("; ".join(each.reasons) or each.runs))
    console.print(table)
    cures = sorted({each.install for each in backends} - {""})
    for line in cures:
        console.print(Text(f"{line}{BUILD_NOTE * ('--no-build-isolation' in line)}"), soft_wrap=True)
    return 0


def _state(name: str, backend: Backend, machine: Machine) -> State:
    if isinstance(backend, Auto):
        return State(name, True, "", [], backend.description(machine), "")
    reasons, cure = _diagnosis(backend, machine)
    runs = "" if reasons else _abilities(backend.capabilities[machine.device])
    return State(name, not reasons, _package(backend, machine), reasons, runs, cure)


def _diagnosis(backend: Backend, machine: Machine) -> tuple[list[str], str]:
    """Reasons it cannot run here, and the pip command that alone would cure it ("" otherwise)."""
    reasons = backend.machine_reasons(machine)
    if len(reasons) == 1 and reasons[0].startswith("needs package"):
        return reasons, backend.capabilities[machine.device].install
    return reasons or _trouble_importing(backend, machine), ""


def _trouble_importing(backend: Backend, machine: Machine) -> list[str]:
    """What only an import can tell: a package that is there and does not load."""
    dtype = backend.capabilities[machine.device].dtypes[0]
    shape = Shape(batch_size=1, seq_len=128, num_heads=2, emb_dim=128, dtype=dtype)
    try:
        backend.prepare(Request(shape=shape, mask=Causal(), passes=("forward",)), machine)
    except Unsupported as refusal:
        return refusal.reasons
    except (ImportError, OSError, RuntimeError) as error:
        return [f"installed, but does not load: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]
    return []


def _package(backend: Backend, machine: Machine) -> str:
    names = {name for capabilities in backend.capabilities.values() for name in capabilities.packages}
    here = [f"{name} {machine.packages[name]}" for name in sorted(names) if name in machine.packages]
    return ", ".join(here) or (" or ".join(sorted(names)) if names else "torch")


def _abilities(capabilities: Capabilities) -> str:
    words = [", ".join(capabilities.dtypes), f"masks {', '.join(capabilities.masks)}"]
    if capabilities.head_dim != (1, 2**20):
        words.append(f"head_dim {capabilities.head_dim[0]}–{capabilities.head_dim[1]}")
    words += [] if capabilities.backward else ["forward only"]
    words += [] if capabilities.grouped_heads else ["no grouped heads"]
    return " · ".join(words)
