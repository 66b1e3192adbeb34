"""How a tracker is run over a sequence."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from data_pipeline.tracks import DatasetError, Track, read_image
from eval_jobs.tracker import Tracker


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

    def __post_init__(self) -> None:
        counts = [len(self.boxes), len(self.scores), len(self.lost), len(self.seconds)]
        if len(set(counts)) != 1 or self.boxes.shape[1:] != (4,):
            raise ValueError(
                "one box of four numbers, score, flag and time per frame expected, got "
                f"boxes {self.boxes.shape} and counts {counts}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def fps(self) -> float:
        """Frames per second after the first frame; NaN where there is none."""
        spent = float(self.seconds[1:].sum())
        return (len(self) - 1) / spent if spent > 0 else float("nan")


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
    boxes, scores, lost, seconds = [], [], [], []
    for done, (box, score, is_lost, spent) in enumerate(frames, start=1):
        boxes.append(box)
        scores.append(score)
        lost.append(is_lost)
        seconds.append(spent)
        if on_frame is not None:
            on_frame(done)
    return Trajectory(
        boxes=np.stack(boxes),
        scores=np.array(scores, dtype=np.float64),
        lost=np.array(lost, dtype=bool),
        seconds=np.array(seconds, dtype=np.float64),
    )


def _frames(
    tracker: Tracker, track: Track
) -> Iterator[tuple[Float[ndarray, "4"], float, bool, float]]:
    """Box, score, lost flag and seconds of each frame."""
    first_box = track.boxes[0].astype(np.float64)
    image = read_image(track.image_files[0])
    begin = time.perf_counter()
    tracker.start(image, first_box)
    yield first_box, 1.0, False, time.perf_counter() - begin
    for path in track.image_files[1:]:
        image = read_image(path)
        begin = time.perf_counter()
        prediction = tracker.follow(image)
        yield prediction.box, prediction.score, prediction.lost, time.perf_counter() - begin
