"""The forward of one backend with the backward of another: all flash-type kernels save the same (q, k, v, out, lse)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attn_lab.backends._joined import joined
from attn_lab.core.backend import AttentionFn, Backend, backend_name
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.machine import Machine
from attn_lab.core.request import Request


@dataclass(frozen=True)
class Paired(Backend):
    """Without a backward pass, the forward backend runs alone, as by itself."""

    forward: Backend
    backward: Backend

    @property
    def label(self) -> str:  # type: ignore[override]
        return f"{backend_name(self.forward)}+{backend_name(self.backward)}"

    @property
    def parts(self) -> tuple[Backend, ...]:  # type: ignore[override]
        return self.forward, self.backward

    @property
    def capabilities(self) -> Mapping[str, Capabilities]:  # type: ignore[override]
        """What both can do."""
        into, back = self.forward.split_capabilities, self.backward.split_capabilities
        return {device: into[device] & back[device] for device in into if device in back}

    @property
    def kernels(self) -> Mapping[str, str]:  # type: ignore[override]
        return {"forward": self.forward.kernels["forward"], "backward": self.backward.kernels["backward"]}

    def declared_reasons(self, request: Request, machine: Machine) -> list[str]:
        ahead = replace(request, passes=("forward",))
        if request.needs_backward:
            into, back = self.forward.split_reasons(ahead, machine), self.backward.split_reasons(request, machine)
        else:
            into, back = self.forward.unsupported_reasons(ahead, machine), self.backward.machine_reasons(machine)
        return _prefixed("forward", self.forward, into) + _prefixed("backward", self.backward, back)

    def machine_reasons(self, machine: Machine) -> list[str]:
        return _prefixed("forward", self.forward, self.forward.machine_reasons(machine)) + _prefixed(
            "backward", self.backward, self.backward.machine_reasons(machine)
        )

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        if not request.needs_backward:
            return self.forward.prepare(request, machine)
        return joined(self.forward.split(request, machine), self.backward.split(request, machine))


def _prefixed(half: str, backend: Backend, reasons: list[str]) -> list[str]:
    return [f"{half} {backend_name(backend)}: {reason}" for reason in reasons]
