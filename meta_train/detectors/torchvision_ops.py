"""torchvision's operations, imported when they are first called.

torchvision brings torch's compiler, which takes as long to import as torch itself (about five
seconds on a slow core): a process that tracks with FCOS, shares out work or prints a help text need
not wait for it.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

BoxFormat = Literal["xyxy", "cxcywh"]


def box_iou(boxes: Float[Tensor, "N 4"], others: Float[Tensor, "M 4"]) -> Float[Tensor, "N M"]:
    """Overlap of each box with each other one, both as xyxy in the same unit."""
    from torchvision import ops

    return ops.box_iou(boxes, others)


def box_convert(
    boxes: Float[Tensor, "*shape 4"], given: BoxFormat, wanted: BoxFormat
) -> Float[Tensor, "*shape 4"]:
    """Boxes in another format, in the same unit."""
    from torchvision import ops

    return ops.box_convert(boxes, given, wanted)


def sigmoid_focal_loss(
    logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"], *, alpha: float, gamma: float
) -> Float[Tensor, "*shape"]:
    """The focal loss of each element (Lin et al., 2017), not reduced.

    Args:
        logits: scores before the sigmoid.
        targets: 1 where positive, 0 where not.
        alpha: weight of the positive ones; the others have 1 - alpha.
        gamma: how little an element counts that is right already.
    """
    from torchvision import ops

    return ops.sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
