"""`eval_jobs.protocols` and the yardsticks: one-pass runs over images on disk."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy import ndarray

from data_pipeline.tracks import DatasetError, Track
from eval_jobs.opencv_tracker import OpenCvTracker, StaticTracker
from eval_jobs.protocols import Trajectory, one_pass
from eval_jobs.tracker import Prediction, TrackingError


def moving_square(folder: Path, num_frames: int = 8) -> Track:
    """A bright textured square that moves by two pixels a frame over a dark image."""
    generator = np.random.default_rng(0)
    texture = generator.integers(120, 256, (24, 24, 3), dtype=np.uint8)
    background = generator.integers(0, 60, (120, 160, 3), dtype=np.uint8)
    files, boxes = [], []
    for frame in range(num_frames):
        x, y = 40 + 2 * frame, 50
        image = background.copy()
        image[y : y + 24, x : x + 24] = texture
        path = folder / f"{frame:04d}.png"
        cv2.imwrite(str(path), image)
        files.append(path)
        boxes.append([x, y, x + 24.0, y + 24.0])
    return Track(
        dataset="made",
        video="square",
        image_files=tuple(files),
        boxes=np.array(boxes, dtype=np.float64),
        visible=np.ones(num_frames, dtype=bool),
        frame_numbers=np.arange(num_frames),
    )


class Oracle:
    """Says the boxes of a list."""

    def __init__(self, boxes: ndarray) -> None:
        self.boxes = boxes
        self.calls: list[str] = []

    def start(self, image: ndarray, box: ndarray) -> None:
        self.calls.append("start")
        np.testing.assert_array_equal(box, self.boxes[0])

    def follow(self, image: ndarray) -> Prediction:
        self.calls.append("follow")
        number = len(self.calls) - 1
        return Prediction(box=self.boxes[number], score=number / 10, lost=number == 3)


def test_one_pass_starts_once_and_keeps_what_the_tracker_says(tmp_path: Path) -> None:
    track = moving_square(tmp_path)
    oracle, done = Oracle(track.boxes), []
    trajectory = one_pass(oracle, track, done.append)
    assert oracle.calls == ["start"] + ["follow"] * 7
    np.testing.assert_array_equal(trajectory.boxes, track.boxes)
    np.testing.assert_allclose(trajectory.scores, [1.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert trajectory.lost.tolist() == [False] * 3 + [True] + [False] * 4
    assert (trajectory.seconds > 0).all()
    assert trajectory.fps > 0
    assert done == list(range(1, 9))


def test_static_box_never_moves(tmp_path: Path) -> None:
    track = moving_square(tmp_path)
    trajectory = one_pass(StaticTracker(), track)
    np.testing.assert_array_equal(trajectory.boxes, np.tile(track.boxes[0], (8, 1)))


def test_opencv_s_tracker_runs_and_moves(tmp_path: Path) -> None:
    track = moving_square(tmp_path)
    trajectory = one_pass(OpenCvTracker("MIL"), track)
    np.testing.assert_array_equal(trajectory.boxes[0], track.boxes[0])
    assert np.isfinite(trajectory.boxes).all()
    assert (trajectory.boxes[1:] != track.boxes[0]).any()


def test_opencv_s_tracker_takes_a_box_that_leaves_the_image(tmp_path: Path) -> None:
    image = np.zeros((50, 60, 3), dtype=np.uint8)
    tracker = OpenCvTracker("MIL")
    tracker.start(image, np.array([-20.0, -5.0, 10.0, 20.0]))
    assert tracker.follow(image).box.shape == (4,)


def test_yardsticks_refuse_to_follow_before_they_start() -> None:
    image = np.zeros((50, 60, 3), dtype=np.uint8)
    for tracker in (StaticTracker(), OpenCvTracker("MIL")):
        with pytest.raises(TrackingError, match="before start"):
            tracker.follow(image)
    with pytest.raises(ValueError, match="unknown OpenCV tracker 'CSRT'; there are MIL"):
        OpenCvTracker("CSRT")


def test_a_sequence_without_a_first_box_is_refused(tmp_path: Path) -> None:
    track = moving_square(tmp_path)
    track.boxes[0] = np.nan
    with pytest.raises(DatasetError, match="made/square: a run starts from the box"):
        one_pass(StaticTracker(), track)


def test_a_missing_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    track = moving_square(tmp_path)
    track.image_files[5].unlink()
    with pytest.raises(DatasetError, match=r"0005\.png"):
        one_pass(StaticTracker(), track)


def test_a_trajectory_has_one_of_each_per_frame() -> None:
    # The annotations alone already refuse it where they are checked.
    with pytest.raises(Exception, match=r"scores|per frame expected"):
        Trajectory(
            boxes=np.zeros((3, 4)),
            scores=np.zeros(2),
            lost=np.zeros(3, dtype=bool),
            seconds=np.zeros(3),
        )
