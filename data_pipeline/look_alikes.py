"""Look-alikes: other objects of the target's category that the same crop shows.

They are what an adapted detector must tell from its target. They are known where a dataset
annotates several objects of a named category in one frame (COCO). Not in the paper: the rule by
which an object counts.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from data_pipeline.boxes import areas, clip, has_area, iou
from data_pipeline.crops import CROP_SIZE_PX
from data_pipeline.tracks import Track

LARGEST_OVERLAP = 0.3
"""An object that overlaps the target more is no other place to look at."""

LARGEST_SIZE_RATIO = 2.0
"""An object is about as large as the target up to this ratio of their sides, either way."""


def siblings(tracks: Sequence[Track]) -> list[list[Track]]:
    """For each track the others of its video and category; none where its category has no name."""
    groups: dict[tuple[str, str, str], list[Track]] = defaultdict(list)
    for track in tracks:
        groups[track.dataset, track.video, track.category].append(track)
    return [
        [
            other
            for other in groups[track.dataset, track.video, track.category]
            if track.category and other.target != track.target
        ]
        for track in tracks
    ]


def boxes_at(
    tracks: Sequence[Track], frame_number: int, *, width: float, height: float
) -> Float[ndarray, "others 4"]:
    """Where tracks are seen in one frame of their video, within an image of this size."""
    if not tracks:
        return np.zeros((0, 4))  # so it is in most frames: nothing to gather
    found = []
    for track in tracks:
        frames = np.flatnonzero((track.frame_numbers == frame_number) & track.visible)
        found.append(clip(track.boxes[frames].astype(np.float64), width=width, height=height))
    boxes = np.concatenate(found)
    return boxes[has_area(boxes)]


def moved(
    boxes: Float[ndarray, "others 4"],
    target_before: Float[ndarray, "4"],
    target_after: Float[ndarray, "4"],
) -> Float[ndarray, "others 4"]:
    """Boxes of one crop in another one of the same frame, which the target's box in both tells.

    >>> target, view = np.array([0.0, 0.0, 10.0, 10.0]), np.array([5.0, 0.0, 25.0, 10.0])
    >>> moved(np.array([[10.0, 10.0, 20.0, 20.0]]), target, view)
    array([[25., 10., 45., 20.]])
    """
    scale = np.tile(
        (target_after[2:] - target_after[:2]) / (target_before[2:] - target_before[:2]), 2
    )
    return (boxes - np.tile(target_before[:2], 2)) * scale + np.tile(target_after[:2], 2)


def look_alikes(
    others_in_crop: Float[ndarray, "others 4"], target_in_crop: Float[ndarray, "4"]
) -> Float[ndarray, "alike 4"]:
    """Those of the others that stand beside the target: in sight, clear of it, of about its size.

    Args:
        others_in_crop: objects of the target's category.
        target_in_crop: the target.
    """
    centers = (others_in_crop[:, :2] + others_in_crop[:, 2:]) / 2
    in_sight = ((centers > 0) & (centers < CROP_SIZE_PX)).all(axis=1)
    clear = iou(others_in_crop, np.broadcast_to(target_in_crop, others_in_crop.shape))
    area, own = areas(others_in_crop), areas(target_in_crop)
    of_size = (area > own / LARGEST_SIZE_RATIO**2) & (area < own * LARGEST_SIZE_RATIO**2)
    return others_in_crop[in_sight & (clear < LARGEST_OVERLAP) & of_size]
