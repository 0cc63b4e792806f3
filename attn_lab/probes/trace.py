"""Which kernels make up a pass, and for how long: torch's profiler over a few steps, its trace kept for Perfetto."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from attn_lab.bench.files import File
from attn_lab.bench.record import Measurement
from attn_lab.bench.trial import Probe, Trial
from attn_lab.core.errors import BadRequest
from attn_lab.inside.chrome import Trace as Seen
from attn_lab.inside.kernels import as_json, as_markdown, kernels_of
from attn_lab.inside.recording import Stage, recorded


@dataclass(frozen=True)
class Trace(Probe):
    """`active` runs of each pass, after two that are not looked at; on the CPU operators stand for kernels.

    PASS/kernels: launches.  PASS/kernel_time: of all of them together, per run.  PASS/attention_kernels: of that, what
    the kernels take that the witness recognises.  PASS/busy: of the time from the first kernel's start to the last's
    end, what they fill; the rest waits for the host.  Files: trace.json.gz, kernels.json, kernels.md.
    """

    active: int = 2
    clocks = True
    hooks = True

    def __post_init__(self) -> None:
        if isinstance(self.active, bool) or not isinstance(self.active, int) or self.active < 1:
            raise BadRequest(f"probe.trace.active: expected a whole number of at least 1; got {self.active!r}")

    def measure(self, trial: Trial) -> Iterator[Measurement | File]:
        path, device = trial.scratch / "trace.json.gz", trial.machine.device
        stages = [Stage(name, *trial.stages(name)) for name in trial.passes]
        recorded(stages, device, path, active=self.active)
        seen = Seen(path)
        yield File("trace", path)
        passes = {}
        for name in trial.passes:
            one = kernels_of(seen, name, device, _declared(trial, name))
            if one is None:
                continue
            passes[name] = one
            yield Measurement(name=f"{name}/kernels", value=one.count, unit="launches", samples=self.active)
            yield Measurement(name=f"{name}/kernel_time", value=one.ms, unit="ms", samples=self.active)
            yield Measurement(name=f"{name}/attention_kernels", value=one.attention, unit="%", samples=self.active)
            yield Measurement(name=f"{name}/busy", value=100 * one.ms / one.span, unit="%", samples=self.active)
        tables = {"kernels.json": json.dumps(as_json(passes), indent=1), "kernels.md": as_markdown(passes)}
        for name, text in tables.items():
            (trial.scratch / name).write_text(text, encoding="utf-8")
            yield File("kernels", trial.scratch / name)


def _declared(trial: Trial, name: str) -> list[str]:
    """Patterns of the backend's kernels in this pass; a step has both."""
    alone = name in trial.backend.kernels
    return [pattern for each, pattern in trial.backend.kernels.items() if name == each or not alone]
