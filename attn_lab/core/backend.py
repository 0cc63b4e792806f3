"""Who answers: an implementation of attention, and the promise its `unsupported_reasons` make."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from attn_lab.core.capabilities import Capabilities
from attn_lab.core.certificate import certified_reasons
from attn_lab.core.errors import Unsupported
from attn_lab.core.machine import Machine
from attn_lab.core.request import Request

WHOLE = "its kernels cannot be had by halves"

AttentionFn = Callable[..., Tensor]
"""q, k, v → out, each (batch, seq, heads, head_dim); key/value heads are not repeated.

Under a ragged mask a fourth is given: `lengths` (batch,) int32, each batch element's number of keys.
It may have other forms of itself as attributes:
packed    qkv (batch, seq, all heads, head_dim), heads → (batch, seq, heads · head_dim): the projection in one piece
any_size  the same for any batch and lengths, traced and fake tensors included; prepared for as many queries as keys,
          it serves only such
"""


def for_any_size(attend: AttentionFn) -> AttentionFn:
    """`attend`, which keeps nothing of the sizes it was prepared for, marked as serving all of them."""
    attend.any_size = attend  # type: ignore[attr-defined]
    return attend


@dataclass(frozen=True)
class Split:
    """Attention in its two halves, neither known to autograd: one backend's forward goes with another's backward.

    forward        q, k, v → out, lse: of each query's scores the natural logarithm of their exponentials' sum, float32
                   (batch, heads, seq_len)
    backward       dout, q, k, v, out, lse → dq, dk, dv; None for a backend that has none
    backward_into  dout, q, k, v, out, lse, dq, dk, dv → None: as `backward`, written where the caller wants it, so
                   that gradients of a packed projection lie packed; None where a library will not
    """

    forward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] | None
    backward_into: Callable[..., None] | None = None
    any_size: bool = False  # neither keeps anything of the sizes it was prepared for


class Backend(Protocol):
    """One implementation of attention; subclass it explicitly, as a frozen dataclass.

    A backend whose forward and backward can be called apart also has `split_capabilities`, by device, and `split`.

    Attributes:
        capabilities: by device ("cuda", "cpu"); a device that is not there is unsupported.
        kernels: by pass ("forward", "backward"), a regular expression that a launched kernel (on the CPU: an operator)
            must match; every other attention kernel launched must match it as well.
        prepare: imports, builds masks, wraps in torch.compile; never timed.  Returns the function that is timed.

    Raises:
        Unsupported: from `prepare`, for what only an import can show (a package built for another CUDA).

    Example:
        >>> from dataclasses import dataclass
        >>> import torch.nn.functional as F
        >>> from attn_lab import Attention
        >>> from attn_lab.core.backend import Backend
        >>> from attn_lab.core.capabilities import Capabilities
        >>> @dataclass(frozen=True)
        ... class Mine(Backend):
        ...     capabilities = {"cpu": Capabilities(dtypes=("float32",), masks=("full",), grouped_heads=False)}
        ...     kernels = {"forward": "softmax", "backward": "softmax"}
        ...     def prepare(self, request, machine):
        ...         def attend(q, k, v):  # (batch, seq, heads, head_dim)
        ...             scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * request.softmax_scale
        ...             return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        ...         return attend
        >>> import torch
        >>> Attention(64, 4, backend=Mine(), mask="full")(torch.randn(1, 5, 64)).shape
        torch.Size([1, 5, 64])
    """

    capabilities: Mapping[str, Capabilities]
    kernels: Mapping[str, str]
    split_capabilities: Mapping[str, Capabilities] = {}
    label: str | None = None  # what records call it, where its file's name does not tell it from others
    parts: "tuple[Backend, ...]" = ()  # others it is made of
    overflows: tuple[str, ...] = ()  # dtypes in which a score may be too large to be written to memory
    compiles: bool = False  # at the first call of a kind, for seconds
    needs_dynamo: bool = False  # compiles by torch.compile, which cannot begin while another graph is traced

    def unsupported_reasons(self, request: Request, machine: Machine) -> list[str]:
        """Every reason this request cannot be served; [] is a promise to answer it rightly.

        Pure: imports and runs nothing.  What is declared, less what a shipped certificate found incorrect.
        """
        return self.declared_reasons(request, machine) or certified_reasons(backend_name(self), request, machine)

    def declared_reasons(self, request: Request, machine: Machine) -> list[str]:
        """The reasons among them that follow from what the backend declares alone."""
        return self.machine_reasons(machine) + _there(self.capabilities, machine).of_request(request)

    def machine_reasons(self, machine: Machine) -> list[str]:
        """The reasons among them that hold for every request on this machine."""
        return _of_machine(self.capabilities, machine)

    def prepare(self, request: Request, machine: Machine) -> AttentionFn: ...

    def split(self, request: Request, machine: Machine) -> Split:
        """As `prepare`, by halves."""
        raise Unsupported(backend_name(self), [WHOLE])

    def split_reasons(self, request: Request, machine: Machine) -> list[str]:
        """Every reason this request cannot be served by halves; [] is a promise, as that of `unsupported_reasons`."""
        if not self.split_capabilities:
            return [WHOLE]
        capabilities = _there(self.split_capabilities, machine)
        reasons = _of_machine(self.split_capabilities, machine) + capabilities.of_request(request)
        return reasons or certified_reasons(backend_name(self), request, machine)


def backend_name(backend: Backend) -> str:
    """The name of the file it comes from, as `backend=` has it; a pair's label."""
    return backend.label or type(backend).__module__.rpartition(".")[2]


def _there(by_device: Mapping[str, Capabilities], machine: Machine) -> Capabilities:
    """The limits on this device; on one that is not served, those on another, for the rest of the reasons."""
    return by_device.get(machine.device) or next(iter(by_device.values()))


def _of_machine(by_device: Mapping[str, Capabilities], machine: Machine) -> list[str]:
    elsewhere = machine.device not in by_device
    reasons = [f"devices: {', '.join(by_device)}; asked {machine.device}"] if elsewhere else []
    return reasons + _there(by_device, machine).of_machine(machine)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The backend selected for a request, its prepared function, and why it was selected."""

    attend: AttentionFn
    by: Backend
    why: str = ""  # of a choice
    passed_over: Mapping[str, Sequence[str]] = field(default_factory=dict)  # reasons, by backends preferred to it


def select(backend: Backend, request: Request, machine: Machine) -> Selection:
    """Have it prepared: by itself, or, where a backend chooses among others (and has a `select`), by one of those."""
    choose = getattr(backend, "select", None)
    return choose(request, machine) if choose else Selection(attend=backend.prepare(request, machine), by=backend)
