"""A mask that arrives as a tensor with the batch, padding mostly, as models of other libraries pass it to attention."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from weakref import ref

import torch
from torch import Tensor

from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import Mask

Made = TypeVar("Made")
FORBIDS = -9e3  # so far below the greatest of its row
KEPT = 4  # masks of self- and cross-attention take turns


@dataclass(frozen=True, eq=False)
class TensorMask(Mask):
    """`allowed` (batch or 1, heads or 1, seq_len, seq_len_kv), bool: True = may attend.  Equal to itself alone."""

    allowed: Tensor = field(repr=False)
    empty_rows: bool = field(init=False)
    uniform = False

    def __post_init__(self) -> None:
        if self.allowed.dim() != 4 or self.allowed.dtype != torch.bool:
            got = f"{tuple(self.allowed.shape)} {self.allowed.dtype}"
            raise BadRequest(f"mask: expected bool (batch or 1, heads or 1, seq_len, seq_len_kv); got {got}")
        object.__setattr__(self, "empty_rows", not bool(self.allowed.any(-1).all()))

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        batches, heads, seq_len, seq_len_kv = self.allowed.shape
        if batches == 1:
            batch = batch * 0
        if heads == 1:
            head = (head[:1] if head.dim() else head) * 0  # one for all heads is looked up once
        return self.allowed[batch, head, query - (seq_len_kv - seq_len), key]


def allowed_by(mask: Tensor) -> Tensor:
    """As bool, True = may attend.  In an additive mask 0 allows, and -inf, its dtype's least, or 9000 and more below
    the greatest of the row forbids: models write -1e9, or -1e4, which is -9984 in bfloat16.  A row of -1e4 alone
    forbids nothing, as all that counts to a softmax is how far a value is below another.

    Raises BadRequest for anything else in it: a bias is more than a mask, also a learned one that is still zero.
    """
    if mask.dtype == torch.bool:
        return mask
    if mask.requires_grad:
        raise BadRequest("attention mask: expected one without gradient; got one that requires it: a learned bias, "
                         "which no backend here adds or trains")  # fmt: skip
    if not mask.is_floating_point():
        raise BadRequest(f"attention mask: expected bool or floating point; got {mask.dtype}")
    if not mask.numel():
        return mask == 0
    greatest, least = mask.amax(-1, keepdim=True), torch.finfo(mask.dtype).min / 2
    allowed = (mask == greatest) & ((greatest == 0) | ((greatest <= FORBIDS) & (greatest > least)))
    if bool((allowed | (mask <= least) | (mask - greatest <= FORBIDS)).all()):
        return allowed
    raise BadRequest("attention mask: expected only 0 and -inf, or -1e4 and less; got other values, and no backend "
                     "here adds a bias")  # fmt: skip


class IdentityCache:
    """What was made of tensors, as long as the very same ones come again, unchanged.  The last few are kept.

    Torch counts what is written into a tensor, not what numpy or `.data` writes: on the CPU, where that costs nothing
    to speak of, what is in them is compared too.
    """

    def __init__(self) -> None:
        self._known: list[tuple[list[_Seen], Hashable, Any]] = []

    def __call__(self, make: Callable[[], Made], *tensors: Tensor | None, about: Hashable = None) -> Made:
        """What `make` gives.  `about`: what else it depends on."""
        given = [tensor for tensor in tensors if tensor is not None]
        if any(tensor.is_inference() for tensor in given):
            return make()  # writes into those are not counted
        for seen, subject, made in self._known:
            if subject == about and len(seen) == len(given) and all(map(_Seen.again, seen, given)):
                return made
        made = make()
        self._known = [*self._known[1 - KEPT :], ([_Seen.now(each) for each in given], about, made)]
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {"_known": []}  # a weak reference is not pickled


class _Seen(NamedTuple):
    tensor: ref[Tensor]
    version: int
    held: Tensor | None

    @classmethod
    def now(cls, tensor: Tensor) -> "_Seen":
        return cls(ref(tensor), tensor._version, tensor.detach().clone() if tensor.device.type == "cpu" else None)

    def again(self, tensor: Tensor) -> bool:
        same = self.tensor() is tensor and self.version == tensor._version
        return same and (self.held is None or torch.equal(self.held, tensor))
