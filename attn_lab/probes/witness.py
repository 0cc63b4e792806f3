"""Which kernels really ran?  The profiler's list of forward and backward against what the backend declares."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from attn_lab.bench.trial import Probe, Trial
from attn_lab.core.errors import Wrong
from attn_lab.records.record import Measurement

ATTENTION_KERNELS = (
    r"flash::\w*flash_(fwd|bwd)|flash_attncute|flash::.*FlashAttn|fmha_cutlass|cudnn.*sdpa|flex_attention"
    r"|_flash_attention_for_cpu|_scaled_dot_product_attention_math"
)
"""Attention kernels and, on the CPU, operators anybody launches: one that its backend did not declare is a fault."""


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
                most = ", ".join(_short(kernel) for kernel, _ in kernels.most_common(5)) or "nothing"
                reasons.append(f"{name}: expected a kernel matching {declared.pattern!r}; launched {most}")
            if strange:
                reasons.append(f"{name}: launched another's kernels: {', '.join(map(_short, strange))}")
            launches += sum(kernels[kernel] for kernel in matching)
            seen.append(f"{name}: {', '.join(_short(kernel, declared) for kernel in matching)}")
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


def _short(kernel: str, declared: re.Pattern[str] | None = None) -> str:
    """A kernel's name without template arguments and parameters, unless it is by those that it was recognised."""
    name = re.sub(r"^void ", "", kernel).replace("(anonymous namespace)", "")
    name = re.split(r"[<(]", name, maxsplit=1)[0][:120]
    match = declared and declared.search(kernel)
    return f"{name}<{match.group()}>" if match and not re.search(re.escape(match.group()), name) else name
