"""Which kernels really ran?  The profiler's list of forward and backward against what the backend declares."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from attn_lab.core.errors import Wrong
from attn_lab.core.kernel_name import short_name
from attn_lab.measure.prepared_case import Probe, Trial
from attn_lab.profiling.kernels import ATTENTION_KERNELS
from attn_lab.records.record import Measurement


@dataclass(frozen=True)
class Witness(Probe):
    def measure(self, trial: Trial) -> Iterator[Measurement]:
        outs = []
        launched = {"forward": self._launched(trial, lambda: outs.append(trial.forward()))}
        if trial.request.needs_backward:
            launched["backward"] = self._launched(trial, lambda: trial.backward(outs.pop()))
        reasons, seen, launches = [], [], 0
        for name, kernels in launched.items():
            declared = re.compile(trial.backend.kernels[name])
            matching = [kernel for kernel in kernels if declared.search(kernel)]
            strange = [k for k in kernels if re.search(ATTENTION_KERNELS, k) and not declared.search(k)]
            if trial.recomputes:
                strange = [k for k in strange if not re.search(trial.backend.kernels["forward"], k)]
            if not matching:
                most = ", ".join(short_name(kernel) for kernel, _ in kernels.most_common(5)) or "nothing"
                reasons.append(f"{name}: expected a kernel matching {declared.pattern!r}; launched {most}")
            if strange:
                reasons.append(f"{name}: launched another's kernels: {', '.join(map(short_name, strange))}")
            launches += sum(kernels[kernel] for kernel in matching)
            seen.append(f"{name}: {', '.join(short_name(kernel, declared) for kernel in matching)}")
        yield Measurement(name="witness/kernels", value=launches, unit="launches", note="; ".join(seen))
        if reasons:
            raise Wrong(*reasons)

    def _launched(self, trial: Trial, call: Callable[[], object]) -> Counter[str]:
        """Names of the kernels (on the CPU: operators) that `call` launches, with their counts."""
        cuda = trial.machine.device == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        wanted = DeviceType.CUDA if cuda else DeviceType.CPU
        trial.synchronize()
        with profile(activities=activities, acc_events=True) as profiler:
            call()
            trial.synchronize()
        return Counter(event.name for event in profiler.events() if event.device_type == wanted)
