"""What was seen inside a step as measurements and files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attn_lab.profiling import kernels, memory, phases
from attn_lab.profiling.memory import MemoryUse
from attn_lab.profiling.trace import Trace
from attn_lab.records.artifacts import File
from attn_lab.records.record import Measurement

MB = 2**20
MOST = 10  # tensors told


def of_kernels(
    trace: Trace, declared: Mapping[str, Sequence[str]], device: str, folder: Path, samples: int
) -> Iterator[Measurement | File]:
    """`declared`: by pass, patterns of the kernels that are the attention's."""
    passes = {}
    for name, patterns in declared.items():
        one = kernels.kernels_of(trace, name, device, patterns)
        if one is None:
            continue
        passes[name] = one
        yield Measurement(name=f"{name}/kernels", value=one.count, unit="launches", samples=samples)
        yield Measurement(name=f"{name}/kernel_time", value=one.ms, unit="ms", samples=samples)
        yield Measurement(name=f"{name}/attention_kernels", value=one.attention, unit="%", samples=samples)
        yield Measurement(name=f"{name}/busy", value=100 * one.ms / one.span, unit="%", samples=samples)
    yield _written("kernels", folder / "kernels.json", json.dumps(kernels.as_json(passes), indent=1))


def of_phases(
    trace: Trace, name: str, device: str, folder: Path, samples: int, timed: float | None = None
) -> Iterator[Measurement | File]:
    """`timed`: this pass's time without a profiler, in ms."""
    found = phases.phases_of(trace, name, device)
    if found is None:
        return
    for each in found.phases:
        key = "/".join(filter(None, ("phases", each.direction, each.name)))
        yield Measurement(name=key, value=each.ms, unit="ms", samples=samples, note=f"{each.share:.1f} %")
    yield Measurement(name="phases/step", value=found.ms, unit="ms", samples=samples, note=name)
    if timed:
        busy = sum(each.ms for each in found.phases if each.name != phases.IDLE)
        yield Measurement(name="phases/of_timed", value=100 * busy / timed, unit="%", samples=samples)
    yield _written("phases", folder / "phases.json", json.dumps(phases.as_json({name: found}), indent=1))


def of_memory(use: MemoryUse, folder: Path, peak: float | None = None) -> Iterator[Measurement | File]:
    """`peak`: bytes that another measured, to be explained; else the peak seen here."""
    known = sum(each.bytes for each in use.live if each.known)
    yield Measurement(name="snapshot/peak", value=use.peak / MB, unit="MB")
    yield Measurement(name="snapshot/explained", value=100 * known / (peak or use.peak), unit="%",
                      note=f"{len(use.live)} tensors at the peak")  # fmt: skip
    yield _written("live", folder / "live.json", json.dumps(memory.as_json(use, MOST), indent=1))


def _written(kind: str, path: Path, text: str) -> File:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return File(kind, path)
