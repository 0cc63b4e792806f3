"""What a backend can do, as data: checked here, in one place, each reason with the limit and what was asked."""

from dataclasses import dataclass
from math import lcm

from attn_lab.core.machine import Machine
from attn_lab.core.mask import has_empty_rows, kind
from attn_lab.core.request import Request


@dataclass(frozen=True, kw_only=True)
class Capabilities:
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
    excluded_head_dims: tuple[int, ...] = ()  # sizes in that range that are not served
    forward_only_head_dims: tuple[int, ...] = ()  # sizes at which the backward is known to be incorrect
    max_batch_size: int = 2**62  # batch elements, or documents packed in one
    min_kv_len: int = 1  # smallest seq_len_kv
    backward_elements: int = 2**62  # most of a tensor, keys and values repeated for every head, that has a gradient
    capability: tuple[int, int] = (0, 0)  # least CUDA compute capability
    capability_below: tuple[int, int] = (1000, 0)
    packages: tuple[str, ...] = ()  # distributions, any one of which will do
    pip: str = ""  # what cures a missing package
    build_isolation: bool = True  # False: pip builds it with the torch that is installed

    def __and__(self, other: "Capabilities") -> "Capabilities":
        """What both can do."""
        return Capabilities(
            dtypes=tuple(each for each in self.dtypes if each in other.dtypes),
            masks=tuple(each for each in self.masks if each in other.masks),
            square_masks=tuple({*self.square_masks, *other.square_masks}),
            grouped_heads=self.grouped_heads and other.grouped_heads,
            empty_rows=self.empty_rows and other.empty_rows,
            backward=self.backward and other.backward,
            dropout=self.dropout and other.dropout,
            head_dim=(max(self.head_dim[0], other.head_dim[0]), min(self.head_dim[1], other.head_dim[1])),
            head_dim_multiple=lcm(self.head_dim_multiple, other.head_dim_multiple),
            excluded_head_dims=tuple(sorted({*self.excluded_head_dims, *other.excluded_head_dims})),
            forward_only_head_dims=tuple(sorted({*self.forward_only_head_dims, *other.forward_only_head_dims})),
            max_batch_size=min(self.max_batch_size, other.max_batch_size),
            min_kv_len=max(self.min_kv_len, other.min_kv_len),
            backward_elements=min(self.backward_elements, other.backward_elements),
            capability=max(self.capability, other.capability),
            capability_below=min(self.capability_below, other.capability_below),
            packages=self.packages + other.packages,
        )

    @property
    def install(self) -> str:
        """The command that installs a missing package."""
        return f"pip install {'--no-build-isolation ' * (not self.build_isolation)}'{self.pip}'"

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
            reasons.append(f"needs package {' or '.join(self.packages)}, not installed ({self.install})")
        return reasons

    def of_request(self, request: Request) -> list[str]:
        """Reasons this request is past what the backend can do; each states the limit and what was asked."""
        shape, mask_kind = request.shape, kind(request.mask)
        least, most = self.head_dim
        reasons = []
        if mask_kind == "ragged" and request.needs_backward:
            reasons.append("keys of a length for each batch element: forward only, without gradients or dropout")
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
        if shape.head_dim in self.excluded_head_dims:
            excluded = ", ".join(map(str, self.excluded_head_dims))
            reasons.append(f"head_dim: all but {excluded}; asked {shape.head_dim}")
        if shape.head_dim in self.forward_only_head_dims and request.needs_backward:
            incorrect = ", ".join(map(str, self.forward_only_head_dims))
            reasons.append(f"head_dim: its gradients are incorrect at {incorrect}; asked {shape.head_dim}, with a "
                           "backward (passes=[forward] would run)")  # fmt: skip
        batch_size = shape.batch_size if request.mask.ends is None else len(request.mask.ends)
        if batch_size > self.max_batch_size:
            what = "batch_size" if request.mask.ends is None else "documents"
            reasons.append(f"{what}: at most {self.max_batch_size}; asked {batch_size}")
        if shape.seq_len_kv < self.min_kv_len:
            reasons.append(f"seq_len_kv: at least {self.min_kv_len}; asked {shape.seq_len_kv}")
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


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
