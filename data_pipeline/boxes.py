"""The one box format: float xyxy in pixels, edges included.

A pixel with index ``i`` covers the interval ``[i, i + 1]``, so a 263 px wide image spans
``[0, 263]`` and its centre is 131.5. Every reader converts to this format at the file's edge, every
writer converts back; nothing in between knows another one.
"""

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray


def xywh_to_xyxy(boxes: Float[ndarray, "*batch 4"]) -> Float[ndarray, "*batch 4"]:
    """Boxes given by their top-left corner and size, as xyxy.

    >>> xywh_to_xyxy(np.array([10.0, 20.0, 30.0, 40.0]))
    array([10., 20., 40., 60.])
    """
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes: Float[ndarray, "*batch 4"]) -> Float[ndarray, "*batch 4"]:
    """Boxes in xyxy, as top-left corner and size; the inverse of `xywh_to_xyxy`."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def cxcywh_to_xyxy(boxes: Float[ndarray, "*batch 4"]) -> Float[ndarray, "*batch 4"]:
    """Boxes given by their centre and size, as xyxy."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def xyxy_to_cxcywh(boxes: Float[ndarray, "*batch 4"]) -> Float[ndarray, "*batch 4"]:
    """Boxes in xyxy, as centre and size; the inverse of `cxcywh_to_xyxy`."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return np.concatenate([boxes[..., :2] + sizes / 2, sizes], axis=-1)


def clip(
    boxes: Float[ndarray, "*batch 4"], *, width: float, height: float
) -> Float[ndarray, "*batch 4"]:
    """The part of each box that lies inside a ``width`` x ``height`` image.

    A box entirely outside comes back with zero area, on the image's border.
    """
    return np.clip(boxes, 0.0, np.array([width, height, width, height], dtype=boxes.dtype))


def areas(boxes: Float[ndarray, "*batch 4"]) -> Float[ndarray, "*batch"]:
    """Area of each box in square pixels; 0 where a box is inside out."""
    sizes = np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return np.asarray(sizes[..., 0] * sizes[..., 1])


def iou(
    first: Float[ndarray, "*batch 4"], second: Float[ndarray, "*batch 4"]
) -> Float[ndarray, "*batch"]:
    """Intersection over union of boxes, pair by pair; 0 where the union is empty.

    >>> iou(np.array([0.0, 0.0, 2.0, 2.0]), np.array([1.0, 0.0, 3.0, 2.0]))
    array(0.33333333)
    """
    overlap = np.concatenate(
        [np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])],
        axis=-1,
    )
    intersection = areas(overlap)
    union = areas(first) + areas(second) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def has_area(boxes: Float[ndarray, "*batch 4"]) -> Bool[ndarray, "*batch"]:
    """True where a box is finite and has a positive width and height."""
    finite = np.isfinite(boxes).all(axis=-1)
    with np.errstate(invalid="ignore"):
        positive = (boxes[..., 2:] > boxes[..., :2]).all(axis=-1)
    return np.asarray(finite & positive)
