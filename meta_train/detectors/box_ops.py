"""torchvision's operations on boxes and its focal loss, imported when they are first called.

torchvision brings torch's compiler, which takes as long to import as torch itself: a process that
tracks with FCOS, shares out work or prints a help text need not wait for it.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

BoxFormat = Literal["xyxy", "cxcywh"]


def box_iou(boxes: Float[Tensor, "N 4"], others: Float[Tensor, "M 4"]) -> Float[Tensor, "N M"]:
    """Overlap of each box with each other one, both as xyxy."""
    from torchvision.ops import box_iou

    return box_iou(boxes, others)


def box_convert(
    boxes: Float[Tensor, "*shape 4"], given: BoxFormat, wanted: BoxFormat
) -> Float[Tensor, "*shape 4"]:
    """Boxes in another format."""
    from torchvision.ops import box_convert

    return box_convert(boxes, given, wanted)


def sigmoid_focal_loss(
    logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"], *, alpha: float, gamma: float
) -> Float[Tensor, "*shape"]:
    """The focal loss of each cell."""
    from torchvision.ops import sigmoid_focal_loss

    return sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
