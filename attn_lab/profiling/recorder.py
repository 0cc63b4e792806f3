"""The profiler over steps that each run some passes, every pass in a range that bears its name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

PASS = "pass: "


class Stage(NamedTuple):
    """A pass: what comes before it, and what is looked at; the second is given what the first returned."""

    name: str
    before: Callable[[], Any]
    run: Callable[[Any], Any]


def recorded(stages: Sequence[Stage], device: str, path: Path, *, active: int, quiet: int = 2, **options: Any) -> None:
    """Run all stages `quiet` + `active` times; a Chrome trace of the last `active` goes to `path` (.json.gz).

    The profiler is off for the first half of the quiet ones and warms up in the second.  The device is waited for
    after each stage, so that nothing of one is seen in the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with profiling(device, path, wait=quiet // 2, warmup=quiet - quiet // 2, active=active, **options) as profiler:
        for _ in range(quiet + active):
            for stage in stages:
                run(stage, device)
            profiler.step()


def run(stage: Stage, device: str) -> None:
    """Once, in its range; what it made is dropped when the range is over."""
    prepared = stage.before()
    wait(device)
    with record_function(PASS + stage.name):
        made = stage.run(prepared)
        wait(device)
    del made, prepared


@contextmanager
def profiling(device: str, path: Path, *, wait: int, warmup: int, active: int, **options: Any) -> Iterator[profile]:
    """torch's profiler, told by the caller where a step ends; what it saw of the active ones goes to `path`."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    plan = schedule(wait=wait, warmup=warmup, active=active, repeat=1)
    with profile(
        activities=activities, schedule=plan, acc_events=True,
        on_trace_ready=lambda done: done.export_chrome_trace(str(path)), **options,
    ) as profiler:  # fmt: skip
        yield profiler


def wait(device: str) -> None:
    """Until the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
