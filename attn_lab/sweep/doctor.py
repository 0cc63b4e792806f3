"""attn-lab doctor: every backend on this machine, ready or all its reasons, and the line that would cure it."""

from collections.abc import Sequence
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attn_lab import conf
from attn_lab.core.backend import Backend
from attn_lab.core.errors import BadRequest, Refused
from attn_lab.core.limits import Limits
from attn_lab.core.machine import Machine, detect, software
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.layer.auto import Auto
from attn_lab.masks.causal import Causal


def doctor(words: Sequence[str]) -> int:
    """Print the table.  The only word taken is device=auto|cuda|cpu; raises BadRequest for another."""
    device = "auto"
    for word in words:
        if not word.startswith("device="):
            raise BadRequest(f"doctor: expected nothing, or device=auto|cuda|cpu; got {word!r}")
        device = word.removeprefix("device=")
    machine = detect(device)
    console = Console()
    versions = " · ".join(f"{name} {version}" for name, version in software(machine).items())
    console.print(Text(f"{machine.name} ({machine.device}) · {versions}"), soft_wrap=True)
    table = Table("backend", "state", "package", "runs / why not", box=None, pad_edge=False)
    cures = set()
    for file in sorted(Path(conf.__path__[0], "backend").glob("*.yaml")):
        config = OmegaConf.create({"plan": None, "backend": OmegaConf.load(file)})  # what `auto` would follow: none
        backend: Backend = instantiate(config.backend)
        if isinstance(backend, Auto):
            table.add_row(file.stem, Text("ready", "green"), "", Text(backend.told(machine)))
            continue
        reasons, cure = _diagnosis(backend, machine)
        cures |= {cure} - {""}
        state = Text("ready", "green") if not reasons else Text("not here", "yellow")
        what = "; ".join(reasons) if reasons else _abilities(backend.limits[machine.device])
        table.add_row(file.stem, state, _package(backend, machine), Text(what))
    console.print(table)
    if cures:
        console.print(Text(f"pip install {' '.join(sorted(cures))}"), soft_wrap=True)
    return 0


def _diagnosis(backend: Backend, machine: Machine) -> tuple[list[str], str]:
    """Reasons it cannot run here, and what to install if that alone would cure it ("" otherwise)."""
    reasons = backend.machine_refusals(machine)
    if len(reasons) == 1 and reasons[0].startswith("needs package"):
        return reasons, f"'{backend.limits[machine.device].pip}'"
    return reasons or _trouble_importing(backend, machine), ""


def _trouble_importing(backend: Backend, machine: Machine) -> list[str]:
    """What only an import can tell: a package that is there and does not load."""
    dtype = backend.limits[machine.device].dtypes[0]
    shape = Shape(batch_size=1, seq_len=128, num_heads=2, emb_dim=128, dtype=dtype)
    try:
        backend.prepare(Request(shape=shape, mask=Causal(), passes=("forward",)), machine)
    except Refused as refusal:
        return refusal.reasons
    except (ImportError, OSError, RuntimeError) as error:
        return [f"installed, but does not load: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]
    return []


def _package(backend: Backend, machine: Machine) -> str:
    names = {name for limits in backend.limits.values() for name in limits.packages}
    here = [f"{name} {machine.packages[name]}" for name in sorted(names) if name in machine.packages]
    return ", ".join(here) or (" or ".join(sorted(names)) if names else "torch")


def _abilities(limits: Limits) -> str:
    words = [", ".join(limits.dtypes), f"masks {', '.join(limits.masks)}"]
    if limits.head_dim != (1, 2**20):
        words.append(f"head_dim {limits.head_dim[0]}–{limits.head_dim[1]}")
    words += [] if limits.backward else ["forward only"]
    words += [] if limits.grouped_heads else ["no grouped heads"]
    return " · ".join(words)
