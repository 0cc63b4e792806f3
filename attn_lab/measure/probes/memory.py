"""How much memory a step takes: peaks, what it is given, and what it keeps for its backward."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from attn_lab.measure.prepared_case import PreparedCase, Probe
from attn_lab.records.record import Measurement

MB = 2**20


@dataclass(frozen=True)
class Memory(Probe):
    """peak and forward are absolute, with everything live counted; step is peak above what was live before it.

    Of a case that trains it is the training step that is looked at, and what its optimizer remembers is live.

    On CUDA from the caching allocator; on the CPU from the allocations the profiler sees, inputs added.
    """

    def measure(self, prepared: PreparedCase) -> Iterator[Measurement]:
        if prepared.trains:
            prepared.clear_gradients()
            prepared.train_step()  # the first makes what the optimizer remembers
            prepared.clear_gradients()
        seen = self._cuda(prepared) if prepared.machine.device == "cuda" else self._cpu(prepared)
        seen["inputs"] = prepared.inputs_bytes
        if prepared.trains:
            seen["optimizer"] = prepared.optimizer_bytes
        for name, size in seen.items():
            yield Measurement(name=f"memory/{name}", value=size / MB, unit="MB")

    def _cuda(self, prepared: PreparedCase) -> dict[str, float]:
        gc.collect()
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()  # else what other code once multiplied counts as this step's
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        out = prepared.forward()
        seen: dict[str, float] = {"forward": torch.cuda.max_memory_allocated()}
        if prepared.request.needs_backward:
            seen["saved"] = torch.cuda.memory_allocated() - before - out.untyped_storage().nbytes()
            _rest(prepared, out)
        seen["peak"] = torch.cuda.max_memory_allocated()
        seen["step"] = seen["peak"] - before
        for name in ("forward", "peak"):
            seen[name] -= prepared.surrounding_bytes
        return seen

    def _cpu(self, prepared: PreparedCase) -> dict[str, float]:
        inputs = prepared.inputs_bytes + prepared.optimizer_bytes
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            out = prepared.forward()
        held, forward = _running(profiler)
        seen: dict[str, float] = {"forward": inputs + forward, "peak": inputs + forward}
        if prepared.request.needs_backward:
            seen["saved"] = held - out.untyped_storage().nbytes()
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
                _rest(prepared, out)
            seen["peak"] = inputs + max(forward, held + _running(profiler)[1])
        seen["step"] = seen["peak"] - inputs
        return seen


def _rest(prepared: PreparedCase, out: Tensor) -> None:
    """What follows a forward: the backward, or in training the backward and the optimizer's step."""
    if prepared.trains:
        prepared.learn(out)
    else:
        prepared.backward(out)


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
