"""What a GPU says of itself, by NVML: clocks, power, heat, what slows it, whose processes it serves, joules spent."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

from attn_lab.core.machine import Machine

CAP = "power cap"
REASONS = {  # NVML's bits
    0x4: CAP,
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
THROTTLED = frozenset(REASONS.values()) - {CAP}  # a card under its cap is what one bought; these are a fault


class MonitorUnavailable(Exception):
    """The card's state cannot be read; the text says why, in one line."""


class State(NamedTuple):
    """A card at one moment.  None is what its driver does not tell."""

    sm_clock: float | None = None  # MHz
    memory_clock: float | None = None
    power: float | None = None  # W, which NVML averages over up to a second
    temperature: float | None = None  # °C
    reasons: frozenset[str] = frozenset()  # why it runs slower than it could, in the words of REASONS


class GpuMonitor(Protocol):
    """One GPU that can be asked.  Reading changes nothing of it."""

    def __hash__(self) -> int: ...

    def state(self) -> State: ...

    def joules(self) -> float | None:
        """Spent since the driver was loaded; moves every 20 to 100 ms."""

    def others(self) -> Sequence[str]:
        """Other processes that use it, as far as can be known from here."""


class MonitorSource(Protocol):
    """Finds the card of a machine: NVML does, and so may anything else that `probe.timing.gpu_monitor` names."""

    def card(self, machine: Machine) -> GpuMonitor | None:
        """None where there is no GPU; MonitorUnavailable where there is one that cannot be read."""


@dataclass(frozen=True)
class Nvml:
    """The driver's own readings."""

    def card(self, machine: Machine) -> GpuMonitor | None:
        return _opened(machine.uuid) if machine.device == "cuda" else None


@cache
def _opened(uuid: str | None) -> GpuMonitor:
    """By UUID: an index means another card to NVML than to a process with CUDA_VISIBLE_DEVICES."""
    try:
        import pynvml
    except ImportError:
        raise MonitorUnavailable("pynvml is not installed (pip install nvidia-ml-py)") from None
    if uuid is None:
        raise MonitorUnavailable("torch does not tell the card's UUID, by which NVML would know it")
    try:
        pynvml.nvmlInit()
        return _Driver(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}"))
    except pynvml.NVMLError as error:
        raise MonitorUnavailable(f"NVML refuses: {error}") from None


class _Driver:
    def __init__(self, nvml: Any, handle: Any):
        self._nvml, self._handle = nvml, handle

    def state(self) -> State:
        nvml = self._nvml
        bits = self._read(nvml.nvmlDeviceGetCurrentClocksEventReasons) or 0
        milliwatts = self._read(nvml.nvmlDeviceGetPowerUsage)
        return State(
            sm_clock=self._read(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            memory_clock=self._read(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            power=None if milliwatts is None else milliwatts / 1e3,
            temperature=self._read(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            reasons=frozenset(words for bit, words in REASONS.items() if bits & bit),
        )

    def joules(self) -> float | None:
        millijoules = self._read(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if millijoules is None else millijoules / 1e3

    def others(self) -> list[str]:
        """NVML counts processes by the host's numbers.  Where ours is not among them we are in a namespace of our own:
        one of those listed is then us, and all beyond one are others; where none is listed, none can be known of."""
        listed: dict[int, None] = {}
        for call in (self._nvml.nvmlDeviceGetComputeRunningProcesses, self._nvml.nvmlDeviceGetGraphicsRunningProcesses):
            listed |= dict.fromkeys(process.pid for process in self._read(call) or ())
        if os.getpid() in listed:
            return [f"process {pid}" for pid in listed if pid != os.getpid()]
        return ["a process beyond this container"] * (len(listed) - 1)

    def _read(self, call: Callable[..., Any], *words: Any) -> Any:
        """What the driver answers; None where this card, or its host, does not give it."""
        with suppress(self._nvml.NVMLError):
            return call(self._handle, *words)
        return None
