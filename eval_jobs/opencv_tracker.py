"""Yardsticks beside the trackers of this project: a box that never moves, and OpenCV's own."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from eval_jobs.tracker import Prediction, TrackingError
from eval_jobs.tracker_input import check_box, check_image

OPENCV_TRACKERS = {"MIL": cv2.TrackerMIL}
"""OpenCV's trackers that need no file of weights and are in every build."""


class StaticTracker:
    """Says that the target is where it was: what a sequence gives away for nothing."""

    def __init__(self) -> None:
        """A tracker without a target yet."""
        self._box: Float[ndarray, 4] | None = None

    def start(self, image: UInt8[ndarray, "height width 3"], box: Float[ndarray, "4"]) -> None:
        """Takes up the target in this box (xyxy, pixels)."""
        check_image(image)
        self._box = check_box(box)

    def follow(self, image: UInt8[ndarray, "height width 3"]) -> Prediction:
        """The first box again."""
        if self._box is None:
            raise TrackingError("follow was called before start: give the first frame and its box")
        return Prediction(box=self._box, score=1.0, lost=False)


class OpenCvTracker:
    """One of OpenCV's trackers, which take and give whole pixels and say no score.

    MIL draws from a generator that OpenCV offers no seed for and that outlives a run, so its
    numbers vary by a few hundredths of AUC.
    """

    def __init__(self, algorithm: str) -> None:
        """A tracker without a target yet.

        Raises:
            ValueError: an algorithm that is not among `OPENCV_TRACKERS`.
        """
        if algorithm not in OPENCV_TRACKERS:
            raise ValueError(
                f"unknown OpenCV tracker {algorithm!r}; there are {', '.join(OPENCV_TRACKERS)}"
            )
        self._algorithm = algorithm
        self._tracker: cv2.Tracker | None = None
        self._box = np.zeros(4)

    def start(self, image: UInt8[ndarray, "height width 3"], box: Float[ndarray, "4"]) -> None:
        """Takes up the target in this box (xyxy, pixels), cut to the image."""
        check_image(image)
        self._box = check_box(box)
        height, width, _ = image.shape
        near = np.clip(np.rint(self._box[:2]), 0, [width - 1, height - 1])
        far = np.maximum(np.clip(np.rint(self._box[2:]), 0, [width, height]), near + 1)
        x, y, box_width, box_height = map(int, (*near, *(far - near)))
        self._tracker = OPENCV_TRACKERS[self._algorithm].create()
        self._tracker.init(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (x, y, box_width, box_height))

    def follow(self, image: UInt8[ndarray, "height width 3"]) -> Prediction:
        """The target in the next frame; the last box where OpenCV does not find it."""
        if self._tracker is None:
            raise TrackingError("follow was called before start: give the first frame and its box")
        found, (x, y, width, height) = self._tracker.update(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if found and width > 0 and height > 0:
            self._box = np.array([x, y, x + width, y + height], dtype=np.float64)
            return Prediction(box=self._box, score=1.0, lost=False)
        return Prediction(box=self._box, score=0.0, lost=True)
