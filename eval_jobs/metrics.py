"""One-pass evaluation metrics, as the official OTB and LaSOT code computes them.

Boxes here are rows ``x, y, w, h`` with 1-based pixel indices, exactly as in the benchmarks' files:
the official validity rules look at those numbers. `to_official` converts from the project's xyxy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from data_pipeline.boxes import xyxy_to_xywh

SUCCESS_THRESHOLDS = np.linspace(0.0, 1.0, 21)
"""Overlaps at which the success curve is read."""

PRECISION_THRESHOLDS_PX = np.arange(51.0)
"""Centre errors at which the precision curve is read."""

NORMALIZED_THRESHOLDS = np.arange(51) * 0.01  # as MATLAB counts 0:0.01:0.5, to the last bit
"""Centre errors, in target sizes, at which the normalised precision curve is read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """What one-pass evaluation measures on one sequence, or on average over many."""

    success: Float[ndarray, "21"]
    """Share of frames whose overlap exceeds `SUCCESS_THRESHOLDS`."""

    precision: Float[ndarray, "51"]
    """Share of frames whose centre error is at most `PRECISION_THRESHOLDS_PX`."""

    normalized_precision: Float[ndarray, "51"]
    """Share of frames whose centre error, divided by the target's size, is at most
    `NORMALIZED_THRESHOLDS`."""


Measured = TypeVar("Measured")
"""What a benchmark measures on a sequence, and on all of them together, e.g. `Curves`."""


@dataclass(frozen=True, kw_only=True)
class Metric(Generic[Measured]):
    """One number read from what was measured, with what a reader needs to know to compare it."""

    name: str
    """How tables and MLflow call it."""

    unit: str
    """What 1.0 means."""

    higher_is_better: bool
    """Which way is better."""

    read: Callable[[Measured], float]
    """Takes the number from what was measured."""

    per_sequence: bool = True
    """Whether a single sequence has this number too."""


AUC = Metric[Curves](
    name="auc",
    unit="mean of the success curve",
    higher_is_better=True,
    read=lambda curves: float(curves.success.mean()),
)
PRECISION_20 = Metric[Curves](
    name="precision_20",
    unit="share of frames within 20 px",
    higher_is_better=True,
    read=lambda curves: float(curves.precision[20]),
)
NORMALIZED_PRECISION_20 = Metric[Curves](
    name="normalized_precision_20",
    unit="share of frames within 0.20 target sizes",
    higher_is_better=True,
    read=lambda curves: float(curves.normalized_precision[20]),
)


def to_official(boxes: Float[ndarray, "frames 4"]) -> Float[ndarray, "frames 4"]:
    """Boxes in xyxy, as the ``x, y, w, h`` rows of OTB's files, whose first pixel is (1, 1).

    >>> to_official(np.array([[0.0, 0.0, 10.0, 20.0]]))
    array([[ 1.,  1., 10., 20.]])
    """
    return xyxy_to_xywh(boxes) + np.array([1.0, 1.0, 0.0, 0.0])


def otb_curves(predicted: Float[ndarray, "boxes 4"], truth: Float[ndarray, "frames 4"]) -> Curves:
    """OTB's one-pass curves of one sequence (calcSeqErrRobust of the benchmark's toolkit).

    A frame whose ground truth is not valid counts as a miss in success and as a hit in precision:
    the official code's habit, kept so that numbers compare.

    Args:
        predicted: the tracker's boxes, one per frame, rows ``x, y, w, h``, 1-based; NaN where it
            gave none.
        truth: the annotated boxes, alike.

    Raises:
        ValueError: another number of boxes than annotations, or none at all.
    """
    return _curves(predicted, truth, counted=np.ones(len(truth), dtype=bool))


def lasot_curves(
    predicted: Float[ndarray, "boxes 4"],
    truth: Float[ndarray, "frames 4"],
    absent: Bool[ndarray, "flags"],
) -> Curves:
    """LaSOT's one-pass curves: OTB's, with absent frames left out of the hits.

    The denominator stays the number of all frames, and boxes beyond the last annotation are left
    out, as in the official toolkit.

    Raises:
        ValueError: fewer boxes than annotations, another number of flags, or none at all.
    """
    return _curves(predicted[: len(truth)], truth, counted=~absent)


def mean_curves(curves: Sequence[Curves]) -> Curves:
    """Average over sequences, each with the same weight however long it is.

    Raises:
        ValueError: no sequence at all.
    """
    if not curves:
        raise ValueError("an average needs at least one sequence, got none")
    if len(curves) == 1:
        return curves[0]
    return Curves(
        success=np.mean([each.success for each in curves], axis=0),
        precision=np.mean([each.precision for each in curves], axis=0),
        normalized_precision=np.mean([each.normalized_precision for each in curves], axis=0),
    )


def repair(
    predicted: Float[ndarray, "frames 4"], truth: Float[ndarray, "frames 4"]
) -> Float[ndarray, "frames 4"]:
    """The boxes that are scored: an invalid row repeats the one before, then row 0 becomes the
    ground truth. So an invalid row 1 repeats what the tracker gave for row 0, as in the toolkits.

    A row is invalid where a number is NaN or the width or height is not positive. Where the ground
    truth itself is NaN nothing is repeated.
    """
    with np.errstate(invalid="ignore"):
        has_area = (predicted[:, 2] > 0) & (predicted[:, 3] > 0)
    invalid = np.isnan(predicted).any(axis=1) | ~has_area
    repeats = invalid & ~np.isnan(truth).any(axis=1)
    repeats[0] = False
    source = np.maximum.accumulate(np.where(repeats, 0, np.arange(len(predicted))))
    boxes = predicted[source]
    boxes[0] = truth[0]
    return boxes


def overlaps(
    predicted: Float[ndarray, "frames 4"], truth: Float[ndarray, "frames 4"]
) -> Float[ndarray, "frames"]:
    """Intersection over union of ``x, y, w, h`` rows, frame by frame."""
    near = np.maximum(predicted[:, :2], truth[:, :2])
    far = np.minimum(predicted[:, :2] + predicted[:, 2:], truth[:, :2] + truth[:, 2:])
    shared = np.maximum(far - near, 0.0)
    intersection = shared[:, 0] * shared[:, 1]
    union = predicted[:, 2] * predicted[:, 3] + truth[:, 2] * truth[:, 3] - intersection
    with np.errstate(invalid="ignore", divide="ignore"):
        return intersection / union


def centers(boxes: Float[ndarray, "frames 4"]) -> Float[ndarray, "frames 2"]:
    """Central pixel of each ``x, y, w, h`` row: x + (w - 1) / 2."""
    return boxes[:, :2] + (boxes[:, 2:] - 1) / 2


def _curves(
    predicted: Float[ndarray, "boxes 4"],
    truth: Float[ndarray, "frames 4"],
    counted: Bool[ndarray, "flags"],
) -> Curves:
    """The curves over all frames, hits taken from the ``counted`` ones."""
    if not (len(predicted) == len(truth) == len(counted)) or len(truth) == 0:
        raise ValueError(
            "one box per annotated frame expected, at least one; got "
            f"{len(predicted)} boxes for {len(truth)} annotations and {len(counted)} flags"
        )
    boxes = repair(predicted, truth)
    with np.errstate(invalid="ignore", divide="ignore"):
        valid = (truth > 0).all(axis=1)
        overlap = np.where(valid, overlaps(boxes, truth), -1.0)
        said, true, size = centers(boxes), centers(truth), truth[:, 2:]
        error = np.where(valid, np.linalg.norm(said - true, axis=1), -1.0)
        # Divided before they are subtracted: the official order, which decides ties.
        scaled = np.where(valid, np.linalg.norm(said / size - true / size, axis=1), -1.0)
    return Curves(
        success=_share_above(overlap[counted], SUCCESS_THRESHOLDS, len(truth)),
        precision=_share_up_to(error[counted], PRECISION_THRESHOLDS_PX, len(truth)),
        normalized_precision=_share_up_to(scaled[counted], NORMALIZED_THRESHOLDS, len(truth)),
    )


def share(
    hits: Bool[ndarray, "counted thresholds"], num_frames: int
) -> Float[ndarray, "thresholds"]:
    """Hits per threshold over the number of frames."""
    return hits.sum(axis=0) / num_frames


def _share_up_to(
    values: Float[ndarray, "counted"], thresholds: Float[ndarray, "thresholds"], num_frames: int
) -> Float[ndarray, "thresholds"]:
    """Values that are at most each threshold, over the number of frames; NaN never is."""
    ordered = np.sort(values[~np.isnan(values)])
    return np.searchsorted(ordered, thresholds, side="right") / num_frames


def _share_above(
    values: Float[ndarray, "counted"], thresholds: Float[ndarray, "thresholds"], num_frames: int
) -> Float[ndarray, "thresholds"]:
    """Values that exceed each threshold, over the number of frames; NaN never does."""
    ordered = np.sort(values[~np.isnan(values)])
    return (len(ordered) - np.searchsorted(ordered, thresholds, side="right")) / num_frames
