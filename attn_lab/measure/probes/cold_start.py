"""How long until the first answer: preparing the backend, then the first call of everything, compilation included."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from attn_lab.measure.prepared_case import PreparedCase, Probe
from attn_lab.records.record import Measurement


@dataclass(frozen=True)
class ColdStart(Probe):
    def measure(self, prepared: PreparedCase) -> Iterator[Measurement]:
        prepared.synchronize()
        start = time.perf_counter()
        prepared.answer()
        prepared.synchronize()
        first = time.perf_counter() - start
        yield Measurement(
            name="prepare/time", value=prepared.prepare_seconds, unit="s", note="imports, masks, wrappers"
        )
        yield Measurement(name="first_call/time", value=first, unit="s", note="compilation included")
