"""Which kernels really ran?  The profiler's list of forward and backward against what the backend declares."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from attn_lab.core.errors import Incorrect
from attn_lab.core.kernel_name import short_name
from attn_lab.measure.prepared_case import PreparedCase, Probe
from attn_lab.profiling.kernels import ATTENTION_KERNELS
from attn_lab.records.record import Measurement


@dataclass(frozen=True)
class KernelCheck(Probe):
    def measure(self, prepared: PreparedCase) -> Iterator[Measurement]:
        outs = []
        launched = {"forward": self._launched(prepared, lambda: outs.append(prepared.forward()))}
        if prepared.request.needs_backward:
            launched["backward"] = self._launched(prepared, lambda: prepared.backward(outs.pop()))
        reasons, seen, launches = [], [], 0
        for name, kernels in launched.items():
            declared = re.compile(prepared.backend.kernels[name])
            matching = [kernel for kernel in kernels if declared.search(kernel)]
            strange = [k for k in kernels if re.search(ATTENTION_KERNELS, k) and not declared.search(k)]
            if prepared.recomputes:
                strange = [k for k in strange if not re.search(prepared.backend.kernels["forward"], k)]
            if not matching:
                most = ", ".join(short_name(kernel) for kernel, _ in kernels.most_common(5)) or "nothing"
                reasons.append(f"{name}: expected a kernel matching {declared.pattern!r}; launched {most}")
            if strange:
                reasons.append(f"{name}: launched another's kernels: {', '.join(map(short_name, strange))}")
            launches += sum(kernels[kernel] for kernel in matching)
            seen.append(f"{name}: {', '.join(short_name(kernel, declared) for kernel in matching)}")
        yield Measurement(name="kernel_check/kernels", value=launches, unit="launches", note="; ".join(seen))
        if reasons:
            raise Incorrect(*reasons)

    def _launched(self, prepared: PreparedCase, call: Callable[[], object]) -> Counter[str]:
        """Names of the kernels (on the CPU: operators) that `call` launches, with their counts."""
        cuda = prepared.machine.device == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        wanted = DeviceType.CUDA if cuda else DeviceType.CPU
        prepared.synchronize()
        with profile(activities=activities, acc_events=True) as profiler:
            call()
            prepared.synchronize()
        return Counter(event.name for event in profiler.events() if event.device_type == wanted)
