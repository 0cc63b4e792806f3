"""Who answers: what a backend is asked, what it can do as data, and the promise `refusals` makes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Protocol

from torch import Tensor

from attn_lab.core.errors import BadRequest, Refused
from attn_lab.core.machine import Machine
from attn_lab.core.mask import Mask, has_empty_rows, kind
from attn_lab.core.shape import Shape

WHOLE = "its kernels cannot be had by halves"
PASSES = ("forward", "backward", "forward_backward")
TRAIN_STEP = "train_step"  # of subjects with parameters: forward, backward and the optimizer's step

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q, k, v → out, each (batch, seq, heads, head_dim); key/value heads are not repeated."""


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


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a backend is asked: a shape, a mask, and the passes that will be run.

    `dropout` is the share of attention weights dropped at random; `scale` multiplies the scores (None: the shape's).
    """

    shape: Shape
    mask: Mask
    passes: tuple[str, ...] = PASSES
    dropout: float = 0.0
    scale: float | None = None

    def __post_init__(self) -> None:
        known = (*PASSES, TRAIN_STEP)
        unknown = [name for name in self.passes if name not in known]
        if unknown or not self.passes or len(set(self.passes)) != len(self.passes):
            raise BadRequest(f"passes: expected some of {', '.join(known)}, each once; got {list(self.passes)}")
        if not 0 <= self.dropout < 1:
            raise BadRequest(f"dropout: expected at least 0 and less than 1; got {self.dropout!r}")

    @property
    def needs_backward(self) -> bool:
        return self.passes != ("forward",)

    @property
    def softmax_scale(self) -> float:
        """What scores are multiplied by before the softmax."""
        return self.shape.scale if self.scale is None else self.scale


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a backend can do on one kind of device.  Checked in one place; the tests are generated from it."""

    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32")
    masks: tuple[str, ...] = ("full", "causal", "band", "predicate")
    square_masks: tuple[str, ...] = ()  # kinds served only where seq_len == seq_len_kv
    grouped_heads: bool = True
    empty_rows: bool = False  # zero output and gradient where a query may attend to nothing
    backward: bool = True
    dropout: bool = False
    head_dim: tuple[int, int] = (1, 2**20)  # smallest and largest
    head_dim_multiple: int = 1
    least_keys: int = 1  # smallest seq_len_kv
    backward_elements: int = 2**62  # most of a tensor, keys and values repeated for every head, that has a gradient
    capability: tuple[int, int] = (0, 0)  # least CUDA compute capability
    capability_below: tuple[int, int] = (1000, 0)
    packages: tuple[str, ...] = ()  # distributions, any one of which will do
    pip: str = ""  # what cures a missing package

    def __and__(self, other: "Limits") -> "Limits":
        """What both can do."""
        return Limits(
            dtypes=tuple(each for each in self.dtypes if each in other.dtypes),
            masks=tuple(each for each in self.masks if each in other.masks),
            square_masks=tuple({*self.square_masks, *other.square_masks}),
            grouped_heads=self.grouped_heads and other.grouped_heads,
            empty_rows=self.empty_rows and other.empty_rows,
            backward=self.backward and other.backward,
            dropout=self.dropout and other.dropout,
            head_dim=(max(self.head_dim[0], other.head_dim[0]), min(self.head_dim[1], other.head_dim[1])),
            head_dim_multiple=lcm(self.head_dim_multiple, other.head_dim_multiple),
            least_keys=max(self.least_keys, other.least_keys),
            backward_elements=min(self.backward_elements, other.backward_elements),
            capability=max(self.capability, other.capability),
            capability_below=min(self.capability_below, other.capability_below),
            packages=self.packages + other.packages,
        )

    def of_machine(self, machine: Machine) -> list[str]:
        """Reasons this machine cannot serve any request at all."""
        reasons = []
        if machine.capability is not None:
            if machine.capability < self.capability:
                reasons.append(f"needs compute capability >= {_dotted(self.capability)}; {machine.name} has "
                               f"{_dotted(machine.capability)}")  # fmt: skip
            if machine.capability >= self.capability_below:
                reasons.append(f"needs compute capability < {_dotted(self.capability_below)}; {machine.name} has "
                               f"{_dotted(machine.capability)}")  # fmt: skip
        if self.packages and not any(name in machine.packages for name in self.packages):
            reasons.append(f"needs package {' or '.join(self.packages)}, not installed (pip install '{self.pip}')")
        return reasons

    def of_request(self, request: Request) -> list[str]:
        """Reasons this request is past what the backend can do; each states the limit and what was asked."""
        shape, mask_kind = request.shape, kind(request.mask)
        least, most = self.head_dim
        reasons = []
        if shape.dtype not in self.dtypes:
            reasons.append(f"dtypes: {', '.join(self.dtypes)}; asked {shape.dtype}")
        served = mask_kind in self.masks or (mask_kind == "documents" and "predicate" in self.masks)
        if not served:
            reasons.append(f"mask kinds: {', '.join(self.masks)}; asked {mask_kind}")
        elif mask_kind in self.square_masks and shape.offset:
            reasons.append(f"{mask_kind} mask only where seq_len == seq_len_kv; asked {shape.seq_len} and "
                           f"{shape.seq_len_kv}")  # fmt: skip
        if not least <= shape.head_dim <= most:
            reasons.append(f"head_dim: {least} to {most}; asked {shape.head_dim}")
        if shape.head_dim % self.head_dim_multiple:
            reasons.append(f"head_dim: multiples of {self.head_dim_multiple}; asked {shape.head_dim}")
        if shape.seq_len_kv < self.least_keys:
            reasons.append(f"seq_len_kv: at least {self.least_keys}; asked {shape.seq_len_kv}")
        longest = max(shape.seq_len, shape.seq_len_kv)
        elements = shape.batch_size * longest * shape.num_heads * shape.head_dim
        if request.needs_backward and elements > self.backward_elements:
            reasons.append(f"elements of a tensor, with a backward: at most {self.backward_elements}; asked {elements} "
                           f"(a smaller batch_size would run)")  # fmt: skip
        if shape.group_size > 1 and not self.grouped_heads:
            reasons.append(f"num_kv_heads: only num_heads={shape.num_heads}; asked {shape.num_kv_heads}")
        if not self.backward and request.needs_backward:
            reasons.append(f"passes: forward only; asked {', '.join(request.passes)} (passes=[forward] would run)")
        if request.dropout and not self.dropout:
            reasons.append(f"dropout: none; asked {request.dropout}")
        if not self.empty_rows and has_empty_rows(request.mask, shape):
            reasons.append(f"queries that may attend to no key: none allowed; asked seq_len {shape.seq_len} over "
                           f"{shape.seq_len_kv} keys under this mask")  # fmt: skip
        return reasons


class Backend(Protocol):
    """One implementation of attention.  Subclass it explicitly, as a frozen dataclass, and give:

    limits   by device ("cuda", "cpu"): a device that is not there is refused
    kernels  by pass ("forward", "backward"): a regular expression that a launched kernel (on the CPU: an operator)
             must match, and that every other attention kernel launched is caught by not matching
    prepare  imports, builds masks, wraps in torch.compile; never timed.  Returns the function that is timed, or
             raises Refused for what only an import can tell (a package built for another CUDA)

    One whose kernels can be had by halves says what those can do, by device, in `split_limits`, and gives `split`.
    """

    limits: Mapping[str, Limits]
    kernels: Mapping[str, str]
    split_limits: Mapping[str, Limits] = {}
    label: str | None = None  # what records call it, where its file's name does not tell it from others
    parts: "tuple[Backend, ...]" = ()  # others it is made of

    def refusals(self, request: Request, machine: Machine) -> list[str]:
        """Every reason this request cannot be served; [] is a promise to run it.  Pure: imports and runs nothing."""
        return self.machine_refusals(machine) + _there(self.limits, machine).of_request(request)

    def machine_refusals(self, machine: Machine) -> list[str]:
        """The reasons among them that hold for every request on this machine."""
        return _of_machine(self.limits, machine)

    def prepare(self, request: Request, machine: Machine) -> Attend: ...

    def split(self, request: Request, machine: Machine) -> Split:
        """As `prepare`, by halves."""
        raise Refused(called(self), [WHOLE])

    def split_refusals(self, request: Request, machine: Machine) -> list[str]:
        """Every reason this request cannot be served by halves; [] is a promise, as that of `refusals`."""
        if not self.split_limits:
            return [WHOLE]
        limits = _there(self.split_limits, machine)
        return _of_machine(self.split_limits, machine) + limits.of_request(request)


def called(backend: Backend) -> str:
    """The name of the file it comes from, as `backend=` has it; a pair's label."""
    return backend.label or type(backend).__module__.rpartition(".")[2]


def _there(by_device: Mapping[str, Limits], machine: Machine) -> Limits:
    """The limits on this device; on one that is not served, those on another, for the rest of the reasons."""
    return by_device.get(machine.device) or next(iter(by_device.values()))


def _of_machine(by_device: Mapping[str, Limits], machine: Machine) -> list[str]:
    elsewhere = machine.device not in by_device
    reasons = [f"devices: {', '.join(by_device)}; asked {machine.device}"] if elsewhere else []
    return reasons + _there(by_device, machine).of_machine(machine)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A question in somebody's hands: the function that answers it, whose kernels that launches, and why theirs."""

    attend: Attend
    by: Backend
    why: str = ""  # of a choice
    passed_over: Mapping[str, Sequence[str]] = field(default_factory=dict)  # who was preferred to them, and why not


def take(backend: Backend, request: Request, machine: Machine) -> Taken:
    """Have it prepared: by itself, or, where a backend chooses among others (and has a `take`), by one of those."""
    choose = getattr(backend, "take", None)
    return choose(request, machine) if choose else Taken(attend=backend.prepare(request, machine), by=backend)


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
