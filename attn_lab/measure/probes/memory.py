"""How much memory a step takes: peaks, what it is given, and what it keeps for its backward."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from attn_lab.measure.prepared_case import Probe, Trial
from attn_lab.records.record import Measurement

MB = 2**20


@dataclass(frozen=True)
class Memory(Probe):
    """peak and forward are absolute, with everything live counted; step is peak above what was live before it.

    Of a case that trains it is the training step that is looked at, and what its optimizer remembers is live.

    On CUDA from the caching allocator; on the CPU from the allocations the profiler sees, inputs added.
    """

    def measure(self, trial: Trial) -> Iterator[Measurement]:
        if trial.trains:
            trial.clear_gradients()
            trial.train_step()  # the first makes what the optimizer remembers
            trial.clear_gradients()
        seen = self._cuda(trial) if trial.machine.device == "cuda" else self._cpu(trial)
        seen["inputs"] = trial.inputs_bytes
        if trial.trains:
            seen["optimizer"] = trial.optimizer_bytes
        for name, size in seen.items():
            yield Measurement(name=f"memory/{name}", value=size / MB, unit="MB")

    def _cuda(self, trial: Trial) -> dict[str, float]:
        gc.collect()
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()  # else what other code once multiplied counts as this step's
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        out = trial.forward()
        seen: dict[str, float] = {"forward": torch.cuda.max_memory_allocated()}
        if trial.request.needs_backward:
            seen["saved"] = torch.cuda.memory_allocated() - before - out.untyped_storage().nbytes()
            _rest(trial, out)
        seen["peak"] = torch.cuda.max_memory_allocated()
        seen["step"] = seen["peak"] - before
        for name in ("forward", "peak"):
            seen[name] -= trial.surrounding_bytes
        return seen

    def _cpu(self, trial: Trial) -> dict[str, float]:
        inputs = trial.inputs_bytes + trial.optimizer_bytes
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            out = trial.forward()
        held, forward = _running(profiler)
        seen: dict[str, float] = {"forward": inputs + forward, "peak": inputs + forward}
        if trial.request.needs_backward:
            seen["saved"] = held - out.untyped_storage().nbytes()
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
                _rest(trial, out)
            seen["peak"] = inputs + max(forward, held + _running(profiler)[1])
        seen["step"] = seen["peak"] - inputs
        return seen


def _rest(trial: Trial, out: Tensor) -> None:
    """What follows a forward: the backward, or in training the backward and the optimizer's step."""
    if trial.trains:
        trial.learn(out)
    else:
        trial.backward(out)


def _running(profiler: profile) -> tuple[int, int]:
    """Bytes allocated less bytes freed during a profile: at its end, and at its highest."""
    steps = []
    pending = list(profiler.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    while pending:
        event = pending.pop()
        pending.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation:
            steps.append((event.start_time_ns, event.extra_fields.alloc_size))
    level = highest = 0
    for _, size in sorted(steps, key=lambda step: step[0]):
        level += size
        highest = max(highest, level)
    return level, highest
