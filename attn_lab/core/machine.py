"""The machine a case runs on, as a value: would this run on an H100? is then a question for a laptop."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import torch

from attn_lab.core.errors import BadRequest

DEVICES = ("auto", "cuda", "cpu")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One device and what is installed beside it.  `packages` maps distribution names (as on PyPI) to versions."""

    device: str  # "cuda" or "cpu"
    name: str
    memory: int  # bytes, of the device
    capability: tuple[int, int] | None = None  # CUDA compute capability
    multiprocessors: int | None = None
    driver: str | None = None
    cudnn: str | None = None  # its version; reading it opens the GPU, so it is read with the cards
    uuid: str | None = None  # which of several cards alike
    cores: int = 1  # of the host
    threads: int = 1  # torch's, on the CPU
    packages: Mapping[str, str] = field(default_factory=dict, repr=False)

    def as_json(self) -> dict[str, object]:
        """Everything but what a record keeps as `versions`: cuDNN's, and the relevant part of the package list."""
        return {key: value for key, value in vars(self).items() if key not in ("cudnn", "packages")}


@cache
def installed_packages() -> Mapping[str, str]:
    """Every installed distribution, name (lower case, dashes) → version."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return found


@cache
def detect(device: str = "auto") -> Machine:
    """The machine we are on.  `device` is auto (CUDA if there is any), cuda, cpu, or one GPU of several, as cuda:1.

    Raises BadRequest for another word, or for cuda on a machine without.
    """
    kind, _, number = device.partition(":")
    if kind not in DEVICES or (device != kind and not (kind == "cuda" and number.isdecimal())):
        raise BadRequest(f"device: expected one of {', '.join(DEVICES)}, or cuda:NUMBER; got {device!r}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return Machine(
            device="cpu", name=_processor(), memory=_host_memory(), cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(), packages=installed_packages(),
        )  # fmt: skip
    if not torch.cuda.is_available():
        built = "this torch is a CPU build" if torch.version.cuda is None else "torch sees no CUDA GPU here"
        raise BadRequest(f"device=cuda: expected a CUDA GPU; {built} (device=cpu, or device=auto, runs here)")
    seen = cards()
    if int(number or 0) >= len(seen):
        raise BadRequest(f"device: expected one of cuda:0 to cuda:{len(seen) - 1}; got {device!r}")
    return seen[int(number or 0)]


def cards() -> list[Machine]:
    """Every CUDA GPU this process may see, [] where there is none.  Initialises CUDA: fork no more after it."""
    seen = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    cudnn = str(torch.backends.cudnn.version()) if seen else None
    return [
        Machine(
            device="cuda", name=card.name, memory=card.total_memory, capability=(card.major, card.minor),
            multiprocessors=card.multi_processor_count, driver=_driver(), cudnn=cudnn,
            uuid=str(getattr(card, "uuid", "")) or None, cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(), packages=installed_packages(),
        )
        for card in seen
    ]  # fmt: skip


def software(machine: Machine) -> dict[str, str]:
    """Versions every record carries, whatever the backend: python, torch, CUDA, cuDNN, triton.  Opens no GPU."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    if machine.device == "cuda":
        versions["cuda"] = str(torch.version.cuda)
        versions["cudnn"] = str(machine.cudnn)
    if "triton" in machine.packages:
        versions["triton"] = machine.packages["triton"]
    return versions


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _driver() -> str | None:
    try:
        with open("/proc/driver/nvidia/version") as lines:
            match = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", lines.readline())
            return match and match.group(1)
    except OSError:
        return None
