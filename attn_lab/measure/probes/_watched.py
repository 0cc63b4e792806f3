"""The calls of one pass and how the card was meanwhile: which of them count, and what else must be said of them."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from attn_lab.measure.gpu_monitor import CAP, THROTTLED, GpuMonitor, State
from attn_lab.measure.probes._clock import between, precision
from attn_lab.records.record import Measurement

FEW = 0.1  # of the calls may be dropped before the rest is no longer to be trusted
FIELDS = {"sm_clock": "MHz", "memory_clock": "MHz", "power": "W", "temperature": "°C"}


class Watched:
    """Calls by batches, each with one reading.  A batch counts unless its card was slowed by heat or a power brake, or
    its SM clock was below `share` of the median over all batches.  Without a card all count."""

    def __init__(self, card: GpuMonitor | None, share: float):
        self._card, self._share = card, share
        self._times: list[Sequence[float]] = []
        self._states: list[State] = []
        self._last: State | None = None

    def look(self) -> None:
        """Read the card for a batch that counts."""
        self.glance()
        if self._last is not None:
            self._states.append(self._last)

    def glance(self) -> None:
        """Read it for one that does not."""
        self._last = self._card.state() if self._card is not None else None

    @property
    def capped(self) -> bool:
        """Whether the card was at its power cap when it was last read."""
        return self._last is not None and CAP in self._last.reasons

    def anew(self) -> "Watched":
        """The same card, and no calls yet."""
        return Watched(self._card, self._share)

    def add(self, times: Sequence[float]) -> None:
        self._times.append(times)

    @property
    def taken(self) -> int:
        return sum(map(len, self._times))

    @property
    def sound(self) -> list[float]:
        """Those that count; all of them, where none would."""
        faults = self._faults()
        sound = [each for times, fault in zip(self._times, faults, strict=True) if not fault for each in times]
        return sound or [each for times in self._times for each in times]

    @property
    def precision(self) -> float:
        """How far, in %, the median's 95 % interval reaches: by calls, or by batches where that is more.
        Calls that were queued together share a clock, and are no witnesses of how it wanders."""
        sound = [times for times, fault in zip(self._times, self._faults(), strict=True) if not fault]
        medians = [float(np.median(times)) for times in sound if len(times) > 1]
        return max(precision(self.sound), between(medians))

    @property
    def dropped(self) -> list[float]:
        return [each for times, fault in zip(self._times, self._faults(), strict=True) if fault for each in times]

    @property
    def mark(self) -> str:
        """Empty, or what is wrong: too many calls were dropped."""
        return f"{self._summary} ran under a throttled clock" if len(self.dropped) > FEW * self.taken else ""

    def measurements(self, name: str) -> Iterator[Measurement]:
        if self._card is None:
            return
        dropped = self.dropped
        yield Measurement(name=f"{name}/dropped", value=len(dropped), unit="samples", samples=self.taken,
                          note=self._summary * bool(dropped), series=dropped)  # fmt: skip
        capped = sum(CAP in state.reasons for state in self._states)
        notes = {"power": f"at its power cap in {capped} of {len(self._states)} readings" * bool(capped)}
        for field, unit in FIELDS.items():
            seen = [value for state in self._states if (value := getattr(state, field)) is not None]
            if seen:
                yield Measurement(name=f"{name}/{field}", value=float(np.median(seen)), unit=unit, low=min(seen),
                                  high=max(seen), samples=len(seen), note=notes.get(field, ""))  # fmt: skip

    @property
    def _summary(self) -> str:
        """`20 of 200 calls (10 power brake, 10 SM clock under 90 % of its median)`."""
        counts: Counter[str] = Counter()
        for times, fault in zip(self._times, self._faults(), strict=True):
            counts[fault] += len(times) * bool(fault)
        text = ", ".join(f"{count} {fault}" for fault, count in counts.most_common() if count)
        return f"{len(self.dropped)} of {self.taken} calls ({text})"

    def _faults(self) -> list[str]:
        """Of each batch, why it does not count."""
        if self._card is None:
            return [""] * len(self._times)
        clocks = [state.sm_clock for state in self._states if state.sm_clock is not None]
        floor = self._share * float(np.median(clocks)) if clocks else 0.0
        low = f"SM clock under {100 * self._share:.0f} % of its median"
        return [
            " and ".join(sorted(state.reasons & THROTTLED))
            or low * (state.sm_clock is not None and state.sm_clock < floor)
            for state in self._states
        ]
