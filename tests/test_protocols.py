"""`eval_jobs.protocols` and the yardsticks: runs over images on disk."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy import ndarray

from data_pipeline.tracks import DatasetError, Track
from eval_jobs.opencv_tracker import OpenCvTracker, StaticTracker
from eval_jobs.protocols import (
    FAILED,
    INITIALIZED,
    SKIPPED,
    TRACKED,
    ResetConfig,
    Trajectory,
    mean_fps,
    one_pass,
    same_result,
    supervised,
)
from eval_jobs.tracker import Prediction, TrackingError

sys.path.append(str(Path(__file__).parent / "benchmarks"))
from oracle_tracker import ScriptedTracker, codes_of

RESETS = json.loads((Path(__file__).parent / "data" / "vot.json").read_text())["resets"]


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


@pytest.mark.parametrize("case", RESETS, ids=lambda case: case["name"])
def test_resets_come_where_the_vot_toolkits_put_them(case: dict[str, Any], tmp_path: Path) -> None:
    expected = "".join(map(str, case["expected_codes"]["pysot_hp_search_run_tracker"]))
    assert "200001" in expected
    assert codes_of(case, tmp_path) == expected


class Jumping(ScriptedTracker):
    """Follows its boxes; remembers where it was started."""

    def __init__(self, boxes: ndarray) -> None:
        super().__init__(boxes)
        self.starts: list[list[float]] = []

    def start(self, image: ndarray, box: ndarray) -> None:
        self.starts.append(box.tolist())


def test_failed_tracker_is_started_again_on_the_ground_truth(tmp_path: Path) -> None:
    track = moving_square(tmp_path, num_frames=12)
    said = track.boxes.copy()
    said[3] += 70.0  # beside the target
    said[10] = np.nan
    tracker, done = Jumping(said), []

    def on_frame(number: int) -> None:
        done.append(number)
        tracker.on_frame(number)

    trajectory = supervised(tracker, track, ResetConfig(restart_after_frames=4), on_frame)
    assert trajectory.codes is not None
    assert trajectory.codes.tolist() == [
        *[INITIALIZED, TRACKED, TRACKED, FAILED, SKIPPED, SKIPPED, SKIPPED],
        *[INITIALIZED, TRACKED, TRACKED, FAILED, SKIPPED],
    ]
    assert tracker.starts == [track.boxes[0].tolist(), track.boxes[7].tolist()]
    assert done == list(range(1, 13))
    tracked = trajectory.codes == TRACKED
    np.testing.assert_array_equal(trajectory.boxes[tracked], track.boxes[tracked])
    assert np.isnan(trajectory.boxes[~tracked]).all()
    assert (trajectory.seconds[4:7] == 0).all()
    assert trajectory.followed.sum() == 6
    assert trajectory.fps == pytest.approx(mean_fps([trajectory, trajectory]))


def test_failure_is_judged_by_the_polygon_where_there_is_one(tmp_path: Path) -> None:
    """A thin diagonal target: a box in the empty corner of its bounding box misses it."""
    track = moving_square(tmp_path, num_frames=3)
    x, y = track.boxes[0, :2]
    diagonal = np.array([[x, y + 1], [x + 1, y], [x + 24, y + 23], [x + 23, y + 24]])
    track = dataclasses.replace(track, polygons=np.tile(diagonal, (3, 1, 1)))
    corner = np.tile([x, y + 18.0, x + 4, y + 24], (3, 1))
    codes = supervised(ScriptedTracker(corner), track).codes
    assert codes is not None
    assert codes.tolist() == [INITIALIZED, FAILED, SKIPPED]


def test_frame_to_start_on_needs_a_box(tmp_path: Path) -> None:
    track = moving_square(tmp_path)
    said = track.boxes + 90.0
    track.boxes[6] = np.nan
    with pytest.raises(DatasetError, match="made/square, frame 7: a run starts"):
        supervised(ScriptedTracker(said), track)


def reset_trajectory(**changes: ndarray) -> Trajectory:
    content: dict[str, Any] = {
        "boxes": np.array([[np.nan] * 4, [1.0, 2.0, 3.0, 4.0], [np.nan] * 4]),
        "scores": np.ones(3),
        "lost": np.zeros(3, dtype=bool),
        "seconds": np.ones(3),
        "codes": np.array([INITIALIZED, TRACKED, FAILED]),
    }
    return Trajectory(**content | changes)


def test_codes_and_boxes_belong_together() -> None:
    assert reset_trajectory().fps == 1.0
    with pytest.raises(ValueError, match="frame 3 has code 3"):
        reset_trajectory(codes=np.array([INITIALIZED, TRACKED, TRACKED]))
    with pytest.raises(ValueError, match="frame 2 has code 2"):
        reset_trajectory(codes=np.array([INITIALIZED, FAILED, FAILED]))
    with pytest.raises(ValueError, match="begin with 1"):
        reset_trajectory(codes=np.array([SKIPPED, TRACKED, FAILED]))
    with pytest.raises(ValueError, match=r"0 to 3 .* got \[1, 3, 7\], beginning with \[1\]"):
        reset_trajectory(codes=np.array([INITIALIZED, TRACKED, 7]))


def test_runs_are_the_same_where_boxes_and_resets_are() -> None:
    one, moved = reset_trajectory(), reset_trajectory()
    moved.boxes[1, 0] += 1e-9
    failing = reset_trajectory(codes=np.array([INITIALIZED, TRACKED, SKIPPED]))
    slower = reset_trajectory(seconds=np.full(3, 9.0))
    assert same_result([one, slower, one])
    assert not same_result([one, one, moved])
    assert not same_result([one, failing])


def test_reset_config_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"num_repetitions .* \(3\), got 2"):
        ResetConfig(num_repetitions=2)
    with pytest.raises(ValueError, match="restart_after_frames must be at least 1, got 0"):
        ResetConfig(restart_after_frames=0)
