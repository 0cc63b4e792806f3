"""A simulated GPU in NVML's place, whose readings are given: throttled, slow, or shared."""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from attn_lab.core.machine import Machine
from attn_lab.measure.gpu_monitor import GpuMonitor, State

SOUND = State(sm_clock=1980.0, memory_clock=2619.0, power=400.0, temperature=40.0)


class Recording:
    """A card that plays `states` over and over, and spends `watts`, counted each `tick` seconds."""

    def __init__(self, states: Sequence[State], *, others: Sequence[str] = (), watts: float = 0.0, tick: float = 0.02):
        self._states: Iterator[State] = itertools.cycle(states)
        self._others, self._watts, self._tick = others, watts, tick

    def state(self) -> State:
        return next(self._states)

    def joules(self) -> float | None:
        return self._watts * self._tick * (time.perf_counter() // self._tick) if self._watts else None

    def others(self) -> Sequence[str]:
        return self._others


@dataclass(frozen=True)
class Recorded:
    """Every other reading says what `reasons` and `clock` say; a process not ours is on the card if `shared`."""

    reasons: Sequence[str] = field(default_factory=tuple)
    clock: float = SOUND.sm_clock or 0.0
    shared: bool = False
    watts: float = 0.0

    def card(self, machine: Machine) -> GpuMonitor:
        slowed = SOUND._replace(sm_clock=self.clock, reasons=frozenset(self.reasons))
        return Recording([SOUND, slowed], others=["process 4711"] * self.shared, watts=self.watts)
