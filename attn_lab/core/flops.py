"""How many floating-point operations a pass takes: one count a case, the same for every backend."""

from attn_lab.core.mask import Mask, pair_count
from attn_lab.core.request import TRAIN_STEP
from attn_lab.core.shape import Shape


def attention_flops(shape: Shape, mask: Mask) -> dict[str, int]:
    """FLOPs of attention alone, per pass, from the exact number of allowed pairs.

    forward  = 2·pairs·(d + d):    one multiply-add a pair and channel for q·k, one for p·v
    backward = 2·pairs·(3d + 2d):  recomputed q·k, dq, dk; dp, dv — 2.5 × forward
    (FlashAttention-2, Dao 2023, §4: the same convention, causal counted by its pairs.)  The softmax is not counted.
    """
    multiply_adds = 2 * pair_count(mask, shape) * shape.head_dim
    forward, backward = 2 * multiply_adds, 5 * multiply_adds
    return _per_pass(forward, backward)


def projection_flops(shape: Shape) -> dict[str, int]:
    """FLOPs of a layer's qkv and output projections, per pass."""
    widths = (2 * shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim  # q, out; k, v
    return linear_flops(shape, shape.emb_dim * widths)


def linear_flops(shape: Shape, weights: int) -> dict[str, int]:
    """FLOPs of matrices with so many weights in all, per pass; backward is twice forward (inputs and weights)."""
    forward = 2 * shape.batch_size * shape.seq_len * weights
    return _per_pass(forward, 2 * forward)


def _per_pass(forward: int, backward: int) -> dict[str, int]:
    """A training step counts as forward and backward: what an optimizer adds is nothing beside them."""
    step = forward + backward
    return {"forward": forward, "backward": backward, "forward_backward": step, TRAIN_STEP: step}
