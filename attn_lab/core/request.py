"""A request to a backend: a shape under a mask, and the passes that will be run."""

from dataclasses import dataclass

from attn_lab.core.errors import BadRequest
from attn_lab.core.mask import Mask
from attn_lab.core.shape import Shape

PASSES = ("forward", "backward", "forward_backward")
TRAIN_STEP = "train_step"  # of subjects with parameters: forward, backward and the optimizer's step


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request to a backend: a shape, a mask, and the passes that will be run.

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
