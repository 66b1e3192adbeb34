"""Metrics of GOT-10k and TrackingNet, as their servers compute them.

Boxes here are rows ``x, y, w, h`` as in the benchmarks' files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from eval_jobs.metrics import SUCCESS_THRESHOLDS, Metric, overlaps, share

TRACKINGNET_THRESHOLDS_PX = np.linspace(0.0, 50.0, 21)
"""Centre errors at which TrackingNet reads its precision curve."""

TRACKINGNET_NORMALIZED_THRESHOLDS = np.linspace(0.0, 0.5, 21)
"""Centre errors, in target sizes, at which it reads the normalised curve."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameOverlaps:
    """What GOT-10k measures: the overlap of each counted frame, of all sequences and runs alike."""

    overlaps: Float[ndarray, "counted"]
    """Intersection over union, in no order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackingNetCurves:
    """What TrackingNet measures on one sequence, or on average over many."""

    success: Float[ndarray, "21"]
    """Share of frames whose overlap is at least `SUCCESS_THRESHOLDS`."""

    precision: Float[ndarray, "21"]
    """Share of frames whose centre error is at most `TRACKINGNET_THRESHOLDS_PX`."""

    normalized_precision: Float[ndarray, "21"]
    """Share of frames whose centre error, divided by the target's size, is at most
    `TRACKINGNET_NORMALIZED_THRESHOLDS`."""


AO = Metric[FrameOverlaps](
    name="ao",
    unit="mean overlap of all frames",
    higher_is_better=True,
    read=lambda frames: _mean(frames.overlaps),
)
SR_50 = Metric[FrameOverlaps](
    name="sr_50",
    unit="share of frames with an overlap above 0.5",
    higher_is_better=True,
    read=lambda frames: _mean(frames.overlaps > 0.5),
)
SR_75 = Metric[FrameOverlaps](
    name="sr_75",
    unit="share of frames with an overlap above 0.75",
    higher_is_better=True,
    read=lambda frames: _mean(frames.overlaps > 0.75),
)
TRACKINGNET_AUC = Metric[TrackingNetCurves](
    name="auc",
    unit="area under the success curve; the server shows it times 100",
    higher_is_better=True,
    read=lambda curves: _area(curves.success),
)
TRACKINGNET_PRECISION = Metric[TrackingNetCurves](
    name="precision",
    unit="area under the precision curve up to 50 px; the server shows it times 100",
    higher_is_better=True,
    read=lambda curves: _area(curves.precision),
)
TRACKINGNET_NORMALIZED_PRECISION = Metric[TrackingNetCurves](
    name="normalized_precision",
    unit="area under the normalised precision curve up to 0.5; the server shows it times 100",
    higher_is_better=True,
    read=lambda curves: _area(curves.normalized_precision),
)


def got10k_overlaps(
    predicted: Float[ndarray, "boxes 4"],
    truth: Float[ndarray, "frames 4"],
    visible: Bool[ndarray, "flags"],
    image_size: tuple[int, int],
) -> FrameOverlaps:
    """GOT-10k's overlaps of one run over one sequence: visible frames after the first.

    A frame for which the tracker gave no box overlaps nothing. GOT-10k's own code gives NaN.

    Args:
        predicted: the tracker's boxes, one per frame; NaN where it gave none.
        truth: the annotated boxes.
        visible: False where ``cover.label`` is 0.
        image_size: width and height.

    Raises:
        ValueError: another number of boxes or flags than annotations.
    """
    _check_counts(predicted, truth, visible)
    counted = np.flatnonzero(visible[1:]) + 1
    inside = [_cut_by_image(boxes[counted], image_size) for boxes in (predicted, truth)]
    return FrameOverlaps(overlaps=np.nan_to_num(overlaps(inside[0], inside[1]).clip(0.0, 1.0)))


def pool_overlaps(parts: Sequence[FrameOverlaps]) -> FrameOverlaps:
    """The frames of sequences and runs together: a long sequence weighs more than a short one."""
    return FrameOverlaps(overlaps=np.concatenate([part.overlaps for part in parts]))


def trackingnet_curves(
    predicted: Float[ndarray, "boxes 4"], truth: Float[ndarray, "frames 4"]
) -> TrackingNetCurves:
    """TrackingNet's curves of one sequence.

    All boxes are rounded to whole pixels, row 0 is the ground truth, and nothing is repaired. Where
    a number is missing the server takes the other box's instead, which is kept here. Frames behind
    the last box count as misses, boxes behind the last annotation are left out.

    Raises:
        ValueError: no box, or no annotation.
    """
    if not len(predicted) or not len(truth):
        raise ValueError(
            f"at least one box and one annotation expected, got {len(predicted)} and {len(truth)}"
        )
    num_frames = len(truth)
    truth, predicted = np.rint(truth[: len(predicted)]), np.rint(predicted[:num_frames])
    boxes = np.concatenate([truth[:1], predicted[1:]])
    near = np.fmax(boxes[:, :2], truth[:, :2])
    far = np.fmin(boxes[:, :2] + boxes[:, 2:], truth[:, :2] + truth[:, 2:])
    shared = np.maximum(far - near, 0.0).prod(axis=1)
    difference = (truth[:, :2] + truth[:, 2:] / 2) - (boxes[:, :2] + boxes[:, 2:] / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap = shared / (truth[:, 2:].prod(axis=1) + boxes[:, 2:].prod(axis=1) - shared)
        error = np.sqrt((difference**2).sum(axis=1))
        scaled = np.sqrt((difference / truth[:, 2:] * difference / truth[:, 2:]).sum(axis=1))
    return TrackingNetCurves(
        success=share(overlap[:, None] >= SUCCESS_THRESHOLDS, num_frames),
        precision=share(error[:, None] <= TRACKINGNET_THRESHOLDS_PX, num_frames),
        normalized_precision=share(
            scaled[:, None] <= TRACKINGNET_NORMALIZED_THRESHOLDS, num_frames
        ),
    )


def mean_trackingnet_curves(curves: Sequence[TrackingNetCurves]) -> TrackingNetCurves:
    """Average over sequences, each with the same weight however long it is."""
    return TrackingNetCurves(
        success=np.mean([each.success for each in curves], axis=0),
        precision=np.mean([each.precision for each in curves], axis=0),
        normalized_precision=np.mean([each.normalized_precision for each in curves], axis=0),
    )


def _cut_by_image(
    boxes: Float[ndarray, "frames 4"], image_size: tuple[int, int]
) -> Float[ndarray, "frames 4"]:
    """Corners moved into the image, then sizes cut at its far sides: GOT-10k's way.

    A box that begins before the image keeps its width, unlike in `boxes.clip`.
    """
    corners = np.clip(boxes[:, :2], 0, image_size)
    return np.concatenate([corners, np.clip(boxes[:, 2:], 0, image_size - corners)], axis=1)


def _mean(values: Float[ndarray, "counted"] | Bool[ndarray, "counted"]) -> float:
    """Mean; NaN of nothing, as of a sequence of one frame, or one whose target is never visible."""
    return float(values.mean()) if values.size else float("nan")


def _area(curve: Float[ndarray, "21"]) -> float:
    """Area under a curve whose thresholds are scaled to [0, 1], by the trapezoid rule."""
    return float(np.trapezoid(curve, SUCCESS_THRESHOLDS))


def _check_counts(
    predicted: Float[ndarray, "boxes 4"],
    truth: Float[ndarray, "frames 4"],
    visible: Bool[ndarray, "flags"],
) -> None:
    if not (len(predicted) == len(truth) == len(visible)) or len(truth) == 0:
        raise ValueError(
            "one box per annotated frame expected, at least one; got "
            f"{len(predicted)} boxes for {len(truth)} annotations and {len(visible)} flags"
        )
