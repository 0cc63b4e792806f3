"""What an input of the layer must be: checked after a call has failed, or where a wrong one would not fail."""

import torch
from torch import Tensor

from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import Mask
from attn_lab.nn.tracing import autocasts, with_real_tensors


def check_input(x: Tensor, emb_dim: int, weight: Tensor) -> None:
    """Raise BadRequest for an input of another width, dtype (but under autocast) or device than the weights."""
    if x.dim() != 3 or x.shape[-1] != emb_dim:
        raise BadRequest(f"attention input: expected (batch, seq, {emb_dim}); got {tuple(x.shape)}")
    if x.device != weight.device or (x.dtype != weight.dtype and not autocasts(x.device)):
        raise BadRequest(f"attention input: expected {weight.dtype} on {weight.device}, as the weights; "
                         f"got {x.dtype} on {x.device} (move one of them, or use autocast)")  # fmt: skip


def check_look_ahead(mask: Mask, end: int, seq: int) -> None:
    """Raise BadRequest where one of the last `seq` of `end` positions may see a key that is still to come."""
    if mask.band is not None and mask.band[1] == 0:
        return
    if not mask.uniform or not with_real_tensors(lambda: _looks_back(mask, end, seq)):
        raise BadRequest(f"cache: expected a mask under which the first {end} positions see no later one; got {mask}")


def _looks_back(mask: Mask, end: int, seq: int) -> bool:
    """Whether one key more behind the last of `end` positions changes nothing for the last `seq` of them."""
    queries = torch.arange(end - seq, end, device="cpu")
    return torch.equal(mask.count(queries, end), mask.count(queries, end + 1))
