"""How a tracker is run over a sequence: once and never helped, or with resets as VOT does."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from data_pipeline.clear_errors import shortened
from data_pipeline.tracks import DatasetError, Track, read_image
from eval_jobs.regions import legacy_overlap, rectangle_corners
from eval_jobs.tracker import Prediction, Tracker

SKIPPED, INITIALIZED, FAILED, TRACKED = range(4)
"""What happened on a frame of a run with resets; VOT's result files write a box for ``TRACKED``."""


@dataclass(frozen=True, kw_only=True)
class ResetConfig:
    """VOT's supervised protocol: a tracker that lost its target is started again."""

    num_repetitions: int = 15
    """Runs over each sequence."""

    identical_repetitions: int = 3
    """Where so many first runs are identical the tracker is deterministic, and no more are made."""

    restart_after_frames: int = 5
    """A tracker that failed on a frame is started again so many frames later."""

    burn_in_frames: int = 10
    """Frames after each start, its own included, that accuracy leaves out."""

    def __post_init__(self) -> None:
        for name in ("identical_repetitions", "restart_after_frames", "burn_in_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_repetitions < self.identical_repetitions:
            raise ValueError(
                "num_repetitions must be at least identical_repetitions "
                f"({self.identical_repetitions}), got {self.num_repetitions}"
            )


VOT_RESETS = ResetConfig()
"""The protocol of VOT-2018."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """What a tracker said about each frame of a sequence.

    Raises:
        ValueError: the parts do not count the same frames.
    """

    boxes: Float[ndarray, "frames 4"]
    """xyxy in the image, pixels; the first is the one that was given."""

    scores: Float[ndarray, "frames"]
    """The tracker's own confidence; 1 on the first frame."""

    lost: Bool[ndarray, "frames"]
    """Frames where it said that it did not find the target."""

    seconds: Float[ndarray, "frames"]
    """Time each frame took, reading the image excluded; the first is the start."""

    codes: Int[ndarray, "frames"] | None = None
    """In a run with resets what happened on each frame (`TRACKED` and its like); boxes are NaN
    where none was tracked."""

    updated: Bool[ndarray, "frames"] | None = None
    """In a run in one pass, frames after which the tracker learned; None where nobody noted it."""

    def __post_init__(self) -> None:
        counts = [len(self.boxes), len(self.scores), len(self.lost), len(self.seconds)]
        counts += [len(flags) for flags in (self.codes, self.updated) if flags is not None]
        if len(set(counts)) != 1 or self.boxes.shape[1:] != (4,):
            raise ValueError(
                "one box of four numbers, score, flag and time (and code) per frame expected, got "
                f"boxes {self.boxes.shape} and counts {counts}"
            )
        if self.codes is not None:
            _check_codes(self.codes, self.boxes)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def followed(self) -> Bool[ndarray, "frames"]:
        """Frames on which the tracker was asked where the target is."""
        if self.codes is not None:
            return (self.codes == TRACKED) | (self.codes == FAILED)
        return np.arange(len(self)) > 0

    @property
    def fps(self) -> float:
        """Frames per second over the frames that were followed; NaN where there is none."""
        return mean_fps([self])


def mean_fps(trajectories: Sequence[Trajectory]) -> float:
    """All followed frames over all the time they took; NaN where there is none."""
    followed = [each.seconds[each.followed] for each in trajectories]
    spent = sum(float(seconds.sum()) for seconds in followed)
    return sum(map(len, followed)) / spent if spent > 0 else float("nan")


def one_pass(
    tracker: Tracker, track: Track, on_frame: Callable[[int], None] | None = None
) -> Trajectory:
    """The tracker started on the first ground-truth box and never helped again (OTB's OPE).

    Args:
        tracker: started here; its state before does not matter.
        track: the sequence.
        on_frame: called with the number of frames done so far.

    Raises:
        DatasetError: an image cannot be read, or the first frame has no box.
    """
    if not len(track) or not np.isfinite(track.boxes[0]).all():
        raise DatasetError(
            f"{track.name}: a run starts from the box of the first frame, but it has none"
        )
    frames = _frames(tracker, track)
    boxes, scores, lost, updated, seconds = [], [], [], [], []
    for done, (prediction, spent) in enumerate(frames, start=1):
        boxes.append(prediction.box)
        scores.append(prediction.score)
        lost.append(prediction.lost)
        updated.append(prediction.updated)
        seconds.append(spent)
        if on_frame is not None:
            on_frame(done)
    return Trajectory(
        boxes=np.stack(boxes),
        scores=np.array(scores, dtype=np.float64),
        lost=np.array(lost, dtype=bool),
        seconds=np.array(seconds, dtype=np.float64),
        updated=np.array(updated, dtype=bool),
    )


def _frames(tracker: Tracker, track: Track) -> Iterator[tuple[Prediction, float]]:
    """Prediction and seconds of each frame; on the first the given box."""
    first_box = track.boxes[0].astype(np.float64)
    image = read_image(track.image_files[0])
    begin = time.perf_counter()
    tracker.start(image, first_box)
    yield Prediction(box=first_box, score=1.0, lost=False), time.perf_counter() - begin
    for path in track.image_files[1:]:
        image = read_image(path)
        begin = time.perf_counter()
        prediction = tracker.follow(image)
        yield prediction, time.perf_counter() - begin


def supervised(
    tracker: Tracker,
    track: Track,
    config: ResetConfig = VOT_RESETS,
    on_frame: Callable[[int], None] | None = None,
) -> Trajectory:
    """One run of VOT's supervised protocol: a box that misses the target altogether is a failure,
    after which the tracker is started again on the ground truth.

    A prediction fails where its legacy overlap with the annotation is zero, as in the code of the
    paper's time. One that is not finite fails too.

    Args:
        tracker: started here; its state before does not matter.
        track: the sequence; its ``polygons`` are what is overlapped, its boxes where it has none.
        config: constants of the protocol.
        on_frame: called with the number of frames done so far.

    Raises:
        DatasetError: an image cannot be read, or a frame on which a run starts has no box.
    """
    num_frames = len(track)
    boxes, lost = np.full((num_frames, 4), np.nan), np.zeros(num_frames, dtype=bool)
    scores, seconds = np.zeros(num_frames), np.zeros(num_frames)
    codes = np.full(num_frames, SKIPPED)
    start = 0
    for frame in range(num_frames):
        if frame == start:
            codes[frame], scores[frame] = INITIALIZED, 1.0
            seconds[frame] = _start(tracker, track, frame)
        elif frame > start:
            image = read_image(track.image_files[frame])
            begin = time.perf_counter()
            prediction = tracker.follow(image)
            seconds[frame] = time.perf_counter() - begin
            scores[frame], lost[frame] = prediction.score, prediction.lost
            if _misses(prediction, track, frame, (image.shape[1], image.shape[0])):
                codes[frame], start = FAILED, frame + config.restart_after_frames
            else:
                codes[frame], boxes[frame] = TRACKED, prediction.box
        if on_frame is not None:
            on_frame(frame + 1)
    return Trajectory(boxes=boxes, scores=scores, lost=lost, seconds=seconds, codes=codes)


def same_result(trajectories: Sequence[Trajectory]) -> bool:
    """Whether all runs gave the same boxes and failed on the same frames."""
    first, *others = trajectories
    return all(
        np.array_equal(first.boxes, each.boxes, equal_nan=True)
        and np.array_equal(_codes(first), _codes(each))
        for each in others
    )


def _codes(trajectory: Trajectory) -> Int[ndarray, "codes"]:
    """A run's codes; none of a run without resets."""
    return np.array([], dtype=int) if trajectory.codes is None else trajectory.codes


def _start(tracker: Tracker, track: Track, frame: int) -> float:
    """Starts the tracker on a frame's ground truth; the seconds it took."""
    box = track.boxes[frame].astype(np.float64)
    if not np.isfinite(box).all():
        raise DatasetError(
            f"{track.name}, frame {frame + 1}: a run starts from the box of this frame, but it has "
            "none. Annotate it."
        )
    image = read_image(track.image_files[frame])
    begin = time.perf_counter()
    tracker.start(image, box)
    return time.perf_counter() - begin


def _misses(prediction: Prediction, track: Track, frame: int, image_size: tuple[int, int]) -> bool:
    """Whether a prediction shares no pixel with the frame's annotation."""
    if track.polygons is not None:
        truth = track.polygons[frame].astype(np.float64)
    else:
        truth = rectangle_corners(track.boxes[frame].astype(np.float64))
    if not (np.isfinite(prediction.box).all() and np.isfinite(truth).all()):
        return True
    return legacy_overlap(rectangle_corners(prediction.box), truth, image_size) == 0


def _check_codes(codes: Int[ndarray, "frames"], boxes: Float[ndarray, "frames 4"]) -> None:
    """Raises `ValueError` unless the codes are known ones, begin with a start, and have a box
    exactly where a frame was tracked.
    """
    if not len(codes) or codes[0] != INITIALIZED or not np.isin(codes, range(4)).all():
        raise ValueError(
            f"codes must be 0 to 3 and begin with {INITIALIZED} (initialised), got "
            f"{shortened(np.unique(codes).tolist(), 80)}, beginning with {codes[:1].tolist()}"
        )
    finite = np.isfinite(boxes).all(axis=1)
    if not np.array_equal(finite, codes == TRACKED):
        frame = int(np.flatnonzero(finite != (codes == TRACKED))[0])
        raise ValueError(
            f"a box exactly where the code is {TRACKED} (tracked) expected, frame {frame + 1} has "
            f"code {codes[frame]} and box {boxes[frame]}"
        )
